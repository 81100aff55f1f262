"""What is measured of a model: by the core, and by plugins under their full names."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.hooks.loading import Plugin
from toolkit.metrics import Answers, MemoryMeter, answers, counts, latency, macs, quality
from toolkit.recipe.read import PluginUse
from toolkit.rows import Note, Plot

Progress = Callable[[float, float], None]
LEAST_S = 0.01  # for timing a model where everything else took the whole budget


class Measurer:
    """Measures one saved model after another against the baseline, within the seconds that a recipe gives to it.

    A context manager, because memory is measured in another process.

    Args:
        baseline: the first model to be measured, and what the others are compared with.
        data: its test split is asked, or its validation split where there is none.
        batch_sizes: of the timed inferences; memory is that of the smallest.
        budget_s: seconds for all rows. Everything but the timing takes what it takes; the timing gets the rest.
        rows: how many models are going to be measured.
    """

    def __init__(self, baseline: nn.Module, data: Data, batch_sizes: Sequence[int], budget_s: float, rows: int) -> None:
        self.baseline, self.data, self.batch_sizes = baseline, data, batch_sizes
        self.split = "test" if data.test is not None else "validation"
        self.answers: Answers | None = None
        self._latest: tuple[nn.Module, Answers] | None = None
        self._left_s, self._rows = budget_s, rows
        self._memory = MemoryMeter()

    def __enter__(self) -> Measurer:
        self._memory.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._memory.__exit__(*error)

    def measure(self, model: nn.Module, folder: Path, on_progress: Progress | None = None) -> dict[str, Any]:
        """Quality, parameters, zeros, MACs, memory and latency of a model that is saved in `folder`."""
        started = time.perf_counter()
        before = self.answers
        row = quality(self._ask(model), before)
        row |= {**counts(model), "macs": macs(model, self.data), **self._peak_memory(model, folder)}
        share_s = (self._left_s / max(1, self._rows)) - (time.perf_counter() - started)
        row |= latency(model, self.baseline, self.data, self.batch_sizes, max(share_s, LEAST_S), on_progress)
        # What a row leaves over, the later ones get.
        self._left_s, self._rows = self._left_s - (time.perf_counter() - started), self._rows - 1
        return row

    def skip(self, model: nn.Module) -> None:
        """The next model was measured by an earlier run; of the baseline the answers are needed nevertheless."""
        if self.answers is None:
            self._ask(model)
        self._left_s, self._rows = self._left_s * (1 - 1 / max(1, self._rows)), self._rows - 1

    def took(self, seconds: float) -> None:
        """Something else that belongs to measuring took this long."""
        self._left_s -= seconds

    def answers_of(self, model: nn.Module) -> Answers | None:
        """What the model answered if it was the last one that was asked."""
        return self._latest[1] if self._latest is not None and self._latest[0] is model else None

    def _ask(self, model: nn.Module) -> Answers:
        found = answers(model, self.data, self.split)
        self._latest = model, found
        self.answers = self.answers or found
        return found

    def _peak_memory(self, model: nn.Module, folder: Path) -> dict[str, int]:
        batch = self.data.example(min(self.batch_sizes))
        peak = self._memory.peak_bytes(folder, model, self.data.task, batch)
        return {} if peak is None else {"peak_memory_bytes": peak}


def named_measures(use: PluginUse, model: nn.Module, data: Data, prepared: Any) -> dict[str, Any]:
    """Call `measure` and return `{"<technique>.<name>": number or Note}`; anything else is a `TechniqueError`."""
    technique = use.plugin
    if not technique.implements("measure"):
        return {}
    with torch.no_grad():
        values = technique.call("measure", model=model, params=use.params, data=data, prepared=prepared)
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise TechniqueError(f"{technique} must return a dictionary from measure, not {kind}: a number or Note by name")
    return {f"{technique.name}.{name}": _checked(technique, name, value) for name, value in values.items()}


def _checked(technique: Plugin, name: str, value: Any) -> float | int | Note | None:
    if isinstance(value, Note):
        rows = [{str(key): _cell(cell) for key, cell in row.items()} for row in value.table]
        return Note(str(value.text), rows, _checked_plot(technique, name, value, rows))
    value = _cell(value)
    if isinstance(value, (int, float)) or value is None:
        return value
    kind = type(value).__name__
    raise TechniqueError(f"{technique} must return numbers or toolkit.Note from measure, '{name}' is a {kind}")


def _checked_plot(technique: Plugin, name: str, note: Note, rows: list[dict[str, Any]]) -> Plot | None:
    if note.plot is None:
        return None
    if not isinstance(note.plot, Plot):
        kind = type(note.plot).__name__
        raise TechniqueError(f"{technique} must give the note '{name}' a toolkit.Plot to be drawn by, not a {kind}")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    missing = [column for column in note.plot.columns if column not in columns]
    if missing and rows:
        raise TechniqueError(
            f"{technique} draws the note '{name}' by the column {missing[0]!r}, which its table has not: "
            f"name one of {', '.join(columns)}"
        )
    return note.plot


def _cell(value: Any) -> Any:
    """A number or text that JSON can hold: NaN and infinity become None, anything that is no number text."""
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, Real) or (hasattr(value, "__float__") and getattr(value, "size", 1) != 0):
        with suppress(TypeError, ValueError, RuntimeError):  # a tensor of more than one element
            return float(value) if math.isfinite(float(value)) else None
    return str(value)
