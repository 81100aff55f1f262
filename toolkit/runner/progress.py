"""The plugin that shows a run's progress: bars with an estimate on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from toolkit.hooks.loading import from_module
from toolkit.hooks.specs import hookimpl
from toolkit.number_text import seconds
from toolkit.params import Params
from toolkit.recipe.read import PluginUse, Recipe, Stage
from toolkit.rows import Row
from toolkit.runner.first_batch import rehearsal_log
from toolkit.runner.validation import Metrics, primary_text

MAX_SILENCE_S = 30.0  # between two lines of a stage that is trained or measured


class ProgressBars:
    """One bar at a time, for a stage's training or whatever else takes long in it."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._activity: tuple[int, str] | None = None
        self._last = 0
        self._validation = ""

    @hookimpl
    def on_start(self, recipe: Recipe) -> None:
        self._last = len(recipe.stages) + len(recipe.exports)

    @hookimpl
    def on_stage(self, stage: Stage) -> None:
        self._validation = ""
        self._bar_for(stage, "preparing", 1)

    @hookimpl
    def on_epoch(self, validation: Metrics | None) -> None:
        if validation:
            self._validation = f", {primary_text(validation)}"

    @hookimpl
    def on_step(self, stage: Stage, step: int, steps: int, loss: float) -> None:
        bar = self._bar_for(stage, "training", steps)
        if step == steps or step % 10 == 0:
            bar.set_postfix_str(f"loss {loss:.4f}{self._validation}", refresh=False)
        bar.update(step - bar.n)

    @hookimpl
    def on_progress(self, stage: Stage, activity: str, done: float, total: float) -> None:
        bar = self._bar_for(stage, activity, total)
        bar.update(done - bar.n)

    @hookimpl
    def on_row(self, stage: Stage, row: Row) -> None:
        self.close()
        tqdm.write(f"{_title(stage, self._last)}: {_summary(row)}", file=sys.stderr)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._activity = None

    def _bar_for(self, stage: Stage, activity: str, total: float) -> tqdm[Any]:
        if self._bar is None or self._activity != (stage.number, activity):
            self.close()
            self._activity = (stage.number, activity)
            shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(
                total=total,
                desc=f"{_title(stage, self._last)}, {activity}",
                leave=False,
                bar_format=shape,
                dynamic_ncols=True,
                file=sys.stderr,
            )
        return self._bar


class ProgressLines:
    """A line when a stage begins and ends, and one at least every `MAX_SILENCE_S` while it is trained or measured."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = 0
        self._began = self._told = 0.0
        self._validation = ""

    @hookimpl
    def on_start(self, recipe: Recipe) -> None:
        self._last = len(recipe.stages) + len(recipe.exports)

    @hookimpl
    def on_stage(self, stage: Stage) -> None:
        self._began = self._clock()
        self._validation = ""
        self._tell(stage, "begins")

    @hookimpl
    def on_epoch(self, validation: Metrics | None) -> None:
        if validation:
            self._validation = f", {primary_text(validation)}"

    @hookimpl
    def on_step(self, stage: Stage, step: int, steps: int, loss: float) -> None:
        now = self._clock()
        if step == 1:
            self._began = now
        if now - self._told >= MAX_SILENCE_S and step > 1:
            left = (now - self._began) / (step - 1) * (steps - step)
            metrics = f"loss {loss:.4f}{self._validation}"
            self._tell(stage, f"{_epoch(stage, step, steps)}, {metrics}, about {seconds(left)} of training left")

    @hookimpl
    def on_progress(self, stage: Stage, activity: str, done: float, total: float) -> None:
        if self._clock() - self._told >= MAX_SILENCE_S:
            self._tell(stage, f"{activity}, {done / total:.0%} done")

    @hookimpl
    def on_row(self, stage: Stage, row: Row) -> None:
        self._tell(stage, _summary(row))

    def close(self) -> None:
        """Do nothing: lines stay."""

    def _tell(self, stage: Stage, text: str) -> None:
        self._told = self._clock()
        print(f"{_title(stage, self._last)}: {text}", file=sys.stderr, flush=True)


def progress() -> tuple[PluginUse, ProgressBars | ProgressLines]:
    """Return the display as a run-wide plugin, and the object to close if the run ends early."""
    display = ProgressBars() if _has_width() else ProgressLines()
    return PluginUse(from_module(display, "progress", "the toolkit", "observer"), Params()), display


@contextmanager
def rehearsal_told() -> Iterator[None]:
    """Write to standard error what a rehearsal is doing: compiling may take a minute."""
    handler, level = logging.StreamHandler(sys.stderr), rehearsal_log.level
    rehearsal_log.addHandler(handler)
    rehearsal_log.setLevel(logging.INFO)
    try:
        yield
    finally:
        rehearsal_log.removeHandler(handler)
        rehearsal_log.setLevel(level)


def _has_width() -> bool:
    """Return whether standard error is a terminal whose width is known."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def _title(stage: Stage, last: int) -> str:
    return f"[{stage.number}/{last}] {stage.name}"


def _summary(row: Row) -> str:
    accuracy = row.get("accuracy")
    quality = f"accuracy {100 * accuracy:.2f} %, " if accuracy is not None else ""
    return f"{quality}{row['size_bytes']:,} bytes, {row['duration_s']:.0f} s"


def _epoch(stage: Stage, step: int, steps: int) -> str:
    epochs = stage.finetune.epochs if stage.finetune is not None else 1
    return f"epoch {-(-step * epochs // steps)} of {epochs}"
