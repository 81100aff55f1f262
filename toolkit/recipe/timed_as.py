"""How a recipe runs the models of a stage: what a timer of the stage measures."""

from __future__ import annotations

from typing import NamedTuple

from toolkit.recipe.read import PluginUse, Recipe, Stage
from toolkit.recipe.successors import successors


class TimedAs(NamedTuple):
    """The runtime that models are timed in, None for PyTorch, and the samples per call."""

    use: PluginUse | None
    batch_size: int


def timed_as(recipe: Recipe, stage: Stage) -> TimedAs:
    """Return how the models of a stage are timed: in the runtime that exports it, else one that exports a successor."""
    rows = [stage.number, *(later.number for later in successors(recipe.stages, stage))]
    exports = sorted((export for export in recipe.exports if export.start in rows), key=lambda export: export.start)
    first = (recipe.measure.batch_sizes or [1])[0]
    return TimedAs(exports[0].use if exports else None, first)
