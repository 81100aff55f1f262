"""What a run will cost, from the times that a rehearsal took: of a training step, of a batch, of a stage."""

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
"""How many batches of a size (None for the recipe's) a whole split has."""


@dataclass(frozen=True)
class Estimate:
    """What one row of the real run costs: `own_s` is the time besides its training, `size_bytes` that of its model."""

    name: str
    steps: int
    training_s: float
    own_s: float
    size_bytes: int


class Clock:
    """A run-wide plugin that takes the times of training steps, of passes over a batch, and of whole rows."""

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
        """What the stage costs on all data, when `timing_s` are spent on timing its row."""
        row, steps, step_s = self._rows[stage.number], 0, 0.0
        taken = self._steps.get(stage.number, [])
        if stage.finetune is not None and taken:
            steps = stage.finetune.epochs * batches("train", stage.finetune.batch_size)
            between = [later - earlier for earlier, later in pairwise(taken)]
            step_s = median(between) if between else taken[0] - self._began[stage.number]
        evaluated = batches("test", None) or batches("validation", None)
        own_s = max(0.0, row["duration_s"] - step_s * len(taken)) + self._batch_s[stage.number] * evaluated
        return Estimate(stage.name, steps, steps * step_s, own_s + timing_s, int(row["size_bytes"]))
