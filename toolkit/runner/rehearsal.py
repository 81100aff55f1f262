"""The rehearsal of a recipe: a run on two batches, which takes seconds, and an estimate of the full run.

The rehearsal is a normal run with data cut to two batches and trainings cut to one epoch, in a temporary folder.
Run-wide plugins are imported but not started, because they may write anywhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr
from tabulate import tabulate

from toolkit.data.splits import Data
from toolkit.hooks.loading import from_module
from toolkit.hooks.specs import hookimpl
from toolkit.number_text import bytes_text, seconds
from toolkit.params import Params
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.read import PluginUse, Recipe, Stage
from toolkit.runner import run
from toolkit.runner.assembly import make_data
from toolkit.runner.estimates import Clock, Estimate
from toolkit.runner.first_batch import rehearsal_log
from toolkit.runner.reduced_data import SPLITS, reduced
from toolkit.training import TrainingSettings

BATCHES = 2
BUDGET_S = 0.2  # seconds to time all rows; the times are discarded


@dataclass(frozen=True)
class Rehearsal:
    """The estimates of a successful rehearsal, one per row; durations are those of this machine at that time."""

    rows: tuple[Estimate, ...]

    @property
    def duration_s(self) -> float:
        """Duration of the full run in seconds."""
        return sum(row.training_s + row.own_s for row in self.rows)

    @property
    def size_bytes(self) -> int:
        """Size of the final model."""
        return self.rows[-1].size_bytes

    def __str__(self) -> str:
        cells = [
            [row.name, f"{row.steps:,}", seconds(row.training_s), seconds(row.own_s), bytes_text(row.size_bytes)]
            for row in self.rows
        ]
        headers = ["stage", "steps", "training", "other", "size"]
        return tabulate(cells, headers, tablefmt="simple", disable_numparse=True, colalign=("left", *["right"] * 4))


def rehearse(recipe: Recipe) -> Rehearsal:
    """Run every stage on two batches, and return the estimates of the full run.

    Raises:
        ToolkitError: a stage fails; the message names it, as that of `toolkit.run` does.
    """
    data = _ReducedData.model_construct(**dict(recipe.data))
    data._batch_size = max(settings.batch_size or data.batch_size for settings in _trainings(recipe))
    clock = Clock()
    observers = [_observer(clock, "rehearsal"), _observer(_Told(len(recipe.stages)), "told")]
    with tempfile.TemporaryDirectory(prefix="toolkit-rehearsal-") as folder:
        run(_shortened(recipe, data), output=Path(folder) / "run", observers=observers, cache=False, rehearsal=False)
    share_s = recipe.measure.budget / (len(recipe.stages) + 1)
    stages = (recipe.baseline, *recipe.stages)
    return Rehearsal(tuple(clock.estimate(stage, data.batches, share_s) for stage in stages))


class _Told:
    """A run-wide plugin that says which stage or export is tried."""

    def __init__(self, stages: int) -> None:
        self._stages = stages

    @hookimpl
    def on_stage(self, stage: Stage) -> None:
        what = stage.label if stage.number <= self._stages else f"export '{stage.name}'"
        rehearsal_log.info("trying %s on %d batches", what, BATCHES)


def _observer(plugin: Any, name: str) -> PluginUse:
    return PluginUse(from_module(plugin, name, "the toolkit", "observer"), Params())


class _ReducedData(DataTable):
    """A `[data]` table that reduces every split to two batches and records the full sizes."""

    _batch_size: int = PrivateAttr(default=0)
    _samples: dict[str, int] = PrivateAttr(default_factory=dict)

    def call(self) -> Data:
        """Return the reduced data; its samples are spread over each split, which may be sorted by class."""
        data = make_data(DataTable.model_construct(**dict(self)))
        self._samples.update({name: data.samples(name) for name in SPLITS if getattr(data, name) is not None})
        return reduced(data, BATCHES * self._batch_size)

    def batches(self, split: str, batch_size: int | None = None) -> int:
        """Return the number of batches in the full split."""
        return -(-self._samples.get(split, 0) // (batch_size or self.batch_size))


def _trainings(recipe: Recipe) -> Iterator[TrainingSettings]:
    yield TrainingSettings()
    for stage in (recipe.baseline, *recipe.stages):
        if stage.finetune is not None:
            yield stage.finetune


def _shortened(recipe: Recipe, data: DataTable) -> Recipe:
    """Return the recipe on reduced data, with one epoch per training and without run-wide plugins."""
    model = recipe.model.model_copy(update={"training": _one_epoch(recipe.model.training)})
    measure = recipe.measure.model_copy(update={"budget": min(BUDGET_S, recipe.measure.budget)})
    tables = [table.model_copy(update={"finetune": _one_epoch(table.finetune)}) for table in recipe.table.stages]
    changed = {"model": model, "data": data, "measure": measure, "stages": tables, "plugins": []}
    stages = tuple(replace(stage, finetune=_one_epoch(stage.finetune)) for stage in recipe.stages)
    table = recipe.table.model_copy(update=changed)
    return replace(recipe, table=table, stages=stages, observers=(), is_rehearsal=True)


def _one_epoch(settings: TrainingSettings | None) -> TrainingSettings | None:
    return settings and settings.model_copy(update={"epochs": 1})
