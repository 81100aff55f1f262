"""What is measured of a model: by the core, and by plugins under their full names."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any

import torch
from torch import nn

from toolkit.errors import TechniqueError
from toolkit.metrics import Answers, answers, counts, latency, macs, quality
from toolkit.recipe import Step
from toolkit.report import Note
from toolkit.tasks import Data
from toolkit.techniques import Technique

Progress = Callable[[float, float], None]


class Measurer:
    """Measures one model after another against the baseline, within the seconds that a recipe gives to timing."""

    def __init__(self, baseline: nn.Module, data: Data, batch_sizes: Sequence[int], budget_s: float, rows: int) -> None:
        self.baseline, self.data, self.batch_sizes = baseline, data, batch_sizes
        self.split = "test" if data.test is not None else "validation"
        self.answers: Answers | None = None
        self._left_s, self._rows = budget_s, rows

    def measure(self, model: nn.Module, on_progress: Progress | None = None) -> dict[str, Any]:
        """Quality, parameters, zeros, MACs and latency of a model; the baseline has to be the first one."""
        found = answers(model, self.data, self.split)
        row = quality(found, self.answers)
        self.answers = self.answers or found
        return {**row, **counts(model), "macs": macs(model, self.data), **self._timed(model, on_progress)}

    def _timed(self, model: nn.Module, on_progress: Progress | None) -> dict[str, Any]:
        started = time.perf_counter()
        share_s = self._left_s / max(1, self._rows)  # what a row leaves over, the later ones get
        timed = latency(model, self.baseline, self.data, self.batch_sizes, share_s, on_progress)
        self._left_s, self._rows = self._left_s - (time.perf_counter() - started), self._rows - 1
        return timed


def named_measures(step: Step, model: nn.Module, data: Data, prepared: Any) -> dict[str, Any]:
    """Call `measure` and return `{"<technique>.<name>": number or Note}`; anything else is a `TechniqueError`."""
    technique = step.technique
    if not technique.implements("measure"):
        return {}
    with torch.no_grad():
        values = technique.call("measure", model=model, params=step.params, data=data, prepared=prepared)
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise TechniqueError(f"{technique} must return a dictionary from measure, not {kind}: a number or Note by name")
    return {f"{technique.name}.{name}": _checked(technique, name, value) for name, value in values.items()}


def _checked(technique: Technique, name: str, value: Any) -> float | int | Note | None:
    if isinstance(value, Note):
        rows = [{str(key): _cell(cell) for key, cell in row.items()} for row in value.table]
        return Note(str(value.text), rows)
    value = _cell(value)
    if isinstance(value, (int, float)) or value is None:
        return value
    kind = type(value).__name__
    raise TechniqueError(f"{technique} must return numbers or toolkit.Note from measure, '{name}' is a {kind}")


def _cell(value: Any) -> Any:
    """A number or text that JSON can hold: NaN and infinity become None, anything that is no number text."""
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if isinstance(value, Real) or (hasattr(value, "__float__") and getattr(value, "size", 1) != 0):
        with suppress(TypeError, ValueError, RuntimeError):  # a tensor of more than one element
            return float(value) if math.isfinite(float(value)) else None
    return str(value)
