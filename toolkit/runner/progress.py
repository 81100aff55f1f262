"""The plugin that shows a run's progress: bars with an estimate on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from toolkit.hooks.loading import from_module
from toolkit.hooks.specs import hookimpl
from toolkit.params import Params
from toolkit.recipe.read import PluginUse, Recipe, Stage
from toolkit.rows import Row


class ProgressBars:
    """One bar at a time, for a stage's training or whatever else takes long in it."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._activity: tuple[int, str] | None = None
        self._stages = 0

    @hookimpl
    def on_start(self, recipe: Recipe) -> None:
        self._stages = len(recipe.stages)

    @hookimpl
    def on_step(self, stage: Stage, step: int, steps: int, loss: float) -> None:
        bar = self._bar_for(stage, "training", steps)
        if step == steps or step % 10 == 0:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        bar.update(step - bar.n)

    @hookimpl
    def on_progress(self, stage: Stage, activity: str, done: float, total: float) -> None:
        bar = self._bar_for(stage, activity, total)
        bar.update(done - bar.n)

    @hookimpl
    def on_row(self, stage: Stage, row: Row) -> None:
        self.close()
        accuracy = row.get("accuracy")
        quality = f"accuracy {100 * accuracy:.2f} %, " if accuracy is not None else ""
        line = f"{self._title(stage)}: {quality}{row['size_bytes']:,} bytes, {row['duration_s']:.0f} s"
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._activity = None

    def _title(self, stage: Stage) -> str:
        return f"[{stage.number}/{self._stages}] {stage.name}"

    def _bar_for(self, stage: Stage, activity: str, total: float) -> tqdm[Any]:
        if self._bar is None or self._activity != (stage.number, activity):
            self.close()
            self._activity = (stage.number, activity)
            # disable=None: no bars where there is no terminal.
            shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(
                total=total,
                desc=f"{self._title(stage)}, {activity}",
                leave=False,
                disable=None,
                bar_format=shape,
                dynamic_ncols=True,
                file=sys.stderr,
            )
        return self._bar


def progress_bars() -> tuple[PluginUse, ProgressBars]:
    """The bars as a run-wide plugin, and the object to close should the run end early."""
    bars = ProgressBars()
    return PluginUse(from_module(bars, "progress", "the toolkit", "observer"), Params()), bars
