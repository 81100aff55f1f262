"""Estimates of the time and size of a run, from the times of a rehearsal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from torch import nn

from toolkit.data.splits import Data
from toolkit.hooks.specs import hookimpl
from toolkit.recipe.read import Stage
from toolkit.rows import Row

Batches = Callable[[str, int | None], int]
"""Number of batches in a full split; the batch size None stands for the recipe's."""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of one row of the run.

    Attributes:
        name: name of the row.
        steps: number of training steps.
        training_s: duration of the training in seconds.
        own_s: duration of everything except training, in seconds.
        size_bytes: size of the model.
    """

    name: str
    steps: int
    training_s: float
    own_s: float
    size_bytes: int


class Clock:
    """A run-wide plugin that times training steps, forward passes of a batch, and whole rows."""

    def __init__(self) -> None:
        self._steps: dict[int, list[float]] = {}
        self._began: dict[int, float] = {}
        self._batch_s: list[float] = []
        self._rows: list[Row] = []

    @hookimpl
    def on_stage(self, stage: Stage) -> None:
        self._began[stage.number] = time.perf_counter()

    @hookimpl
    def on_step(self, stage: Stage) -> None:
        self._steps.setdefault(stage.number, []).append(time.perf_counter())

    @hookimpl
    def measure(self, model: nn.Module, data: Data) -> dict[str, Any]:
        started = time.perf_counter()
        batches = data.batches("test" if data.test is not None else "validation")
        for batch in batches:
            data.task.forward(model, batch)
        self._batch_s.append((time.perf_counter() - started) / len(batches))
        return {}

    @hookimpl
    def on_row(self, row: Row) -> None:
        self._rows.append(row)

    def estimate(self, stage: Stage, batches: Batches, timing_s: float) -> Estimate:
        """Return the cost of the stage on all data, with `timing_s` seconds for timing its row."""
        row, steps, step_s = self._rows[stage.number], 0, 0.0
        times = self._steps.get(stage.number, [])
        if stage.finetune is not None and times:
            steps = stage.finetune.epochs * batches("train", stage.finetune.batch_size)
            between = [later - earlier for earlier, later in pairwise(times)]
            step_s = median(between) if between else times[0] - self._began[stage.number]
        evaluated = batches("test", None) or batches("validation", None)
        own_s = max(0.0, row["duration_s"] - step_s * len(times)) + self._batch_s[stage.number] * evaluated
        return Estimate(stage.name, steps, steps * step_s, own_s + timing_s, int(row["size_bytes"]))
