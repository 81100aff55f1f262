"""A whole recipe in seconds: every stage is run with a batch or two, and what the real run costs is estimated.

It is the real runner with the real hooks, on data cut to two batches and trainings cut to one epoch, in a folder that
is deleted afterwards. Run-wide plugins are imported and not started, because they may write wherever they like.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import PrivateAttr
from tabulate import tabulate

from toolkit.data.batches import take
from toolkit.data.splits import Data
from toolkit.hooks.loading import from_module
from toolkit.number_text import bytes_text, seconds
from toolkit.params import Params
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.read import PluginUse, Recipe
from toolkit.runner import run
from toolkit.runner.assembly import make_data
from toolkit.runner.estimates import Clock, Estimate
from toolkit.training import TrainingSettings

BATCHES = 2
BUDGET_S = 0.2  # for the timing of all rows: it has to work, and its numbers are thrown away


@dataclass(frozen=True)
class Rehearsal:
    """The rows of a recipe that went through; durations are those of this machine while it rehearsed."""

    rows: tuple[Estimate, ...]

    @property
    def duration_s(self) -> float:
        """Of the whole real run."""
        return sum(row.training_s + row.own_s for row in self.rows)

    @property
    def size_bytes(self) -> int:
        """Of the model that the real run leaves behind."""
        return self.rows[-1].size_bytes

    def __str__(self) -> str:
        cells = [
            [row.name, f"{row.steps:,}", seconds(row.training_s), seconds(row.own_s), bytes_text(row.size_bytes)]
            for row in self.rows
        ]
        headers = ["stage", "steps", "training", "besides", "size"]
        return tabulate(cells, headers, tablefmt="simple", disable_numparse=True, colalign=("left", *["right"] * 4))


def rehearse(recipe: Recipe) -> Rehearsal:
    """Run every stage on a batch or two; whatever the real run would raise for the same reason, this raises.

    Raises:
        ToolkitError: naming the stage, as `toolkit.run` does.
    """
    few = _FewBatches.model_construct(**dict(recipe.data))
    few._largest = max(settings.batch_size or few.batch_size for settings in _trainings(recipe))
    clock = Clock()
    observer = PluginUse(from_module(clock, "rehearsal", "the toolkit", "observer"), Params())
    with tempfile.TemporaryDirectory(prefix="toolkit-rehearsal-") as folder:
        run(_shortened(recipe, few), output=Path(folder) / "run", observers=[observer], cache=False)
    share_s = recipe.measure.budget / (len(recipe.stages) + 1)
    stages = (recipe.baseline, *recipe.stages)
    return Rehearsal(tuple(clock.estimate(stage, few.batches, share_s) for stage in stages))


class _FewBatches(DataTable):
    """A `[data]` table whose source gives two batches of every split, and that knows how much there was."""

    _largest: int = PrivateAttr(default=0)
    _samples: dict[str, int] = PrivateAttr(default_factory=dict)

    def call(self) -> Data:
        """Samples spread over the whole split: it may be sorted by class."""
        data = make_data(DataTable.model_construct(**dict(self)))
        names = [name for name in ("train", "validation", "test") if getattr(data, name) is not None]
        self._samples.update({name: data.samples(name) for name in names})
        cut: dict[str, Any] = {name: take(data.split(name), self._spread(name)) for name in names}
        return replace(data, **cut)

    def batches(self, split: str, batch_size: int | None = None) -> int:
        """How many batches the whole split has."""
        return -(-self._samples.get(split, 0) // (batch_size or self.batch_size))

    def _spread(self, name: str) -> torch.Tensor:
        samples = self._samples[name]
        return torch.linspace(0, samples - 1, min(samples, BATCHES * self._largest), dtype=torch.float64).long()


def _trainings(recipe: Recipe) -> Iterator[TrainingSettings]:
    yield TrainingSettings()
    for stage in (recipe.baseline, *recipe.stages):
        if stage.finetune is not None:
            yield stage.finetune


def _shortened(recipe: Recipe, data: DataTable) -> Recipe:
    """The same recipe on other data, with one epoch for every training and without run-wide plugins."""
    model = recipe.model.model_copy(update={"training": _one_epoch(recipe.model.training)})
    measure = recipe.measure.model_copy(update={"budget": min(BUDGET_S, recipe.measure.budget)})
    tables = [table.model_copy(update={"finetune": _one_epoch(table.finetune)}) for table in recipe.table.stages]
    changed = {"model": model, "data": data, "measure": measure, "stages": tables, "plugins": []}
    stages = tuple(replace(stage, finetune=_one_epoch(stage.finetune)) for stage in recipe.stages)
    return replace(recipe, table=recipe.table.model_copy(update=changed), stages=stages, observers=())


def _one_epoch(settings: TrainingSettings | None) -> TrainingSettings | None:
    return settings and settings.model_copy(update={"epochs": 1})
