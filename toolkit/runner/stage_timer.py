"""The timer of a stage: models next to the one that the stage starts from, in PyTorch or in an exported file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from torch import nn

from toolkit.data.splits import Data
from toolkit.exports.files import ExportedModel, export_model
from toolkit.exports.time_file import pair_in_turn
from toolkit.metrics.latency import timings
from toolkit.metrics.macs import macs
from toolkit.recipe.read import PluginUse, Recipe, Stage
from toolkit.recipe.timed_as import timed_as
from toolkit.runner.export_files import opened
from toolkit.statistics import Floats
from toolkit.timing import Timer, TimeRatio, median_ratio, ratio_interval

BUDGET_S = 10.0  # at most, for the calls of one answer; a ratio is known to 3 % earlier on an idle machine
PYTORCH = "PyTorch"


def stage_timer(recipe: Recipe, stage: Stage, incoming: nn.Module, data: Data, blocked: Sequence[str] = ()) -> Timer:
    """Return a timer that measures, or only counts in a rehearsal; nothing is exported before its first question.

    Args:
        recipe: the runtime and the samples per call.
        stage: one of its stages.
        incoming: the model that the stage starts from.
        data: its task feeds batches of the first training samples.
        blocked: packages that cannot be imported where files are opened, besides the toolkit and its plugins.
    """
    if recipe.is_rehearsal:
        return counting_timer(incoming, data)
    use, batch_size = timed_as(recipe, stage)
    if use is None:
        return Timer(PYTORCH, batch_size, lambda model: _in_pytorch(model, incoming, data, batch_size))
    return Timer(
        use.plugin.name, batch_size, _in_runtime(use, incoming, data.without_test().on_cpu(), batch_size, blocked)
    )


def counting_timer(incoming: nn.Module, data: Data) -> Timer:
    """Return a timer that counts multiply-accumulates instead, for models whose times mean nothing."""

    def counted(model: nn.Module) -> TimeRatio:
        ratio = macs(model, data) / max(1, macs(incoming, data))
        return TimeRatio(ratio, ratio, ratio)

    return Timer("MACs", 1, counted)


def _in_pytorch(model: nn.Module, incoming: nn.Module, data: Data, batch_size: int) -> TimeRatio:
    timing = timings(model, incoming, data, [batch_size], BUDGET_S)[batch_size]
    return _ratio(timing.model, timing.baseline)


def _in_runtime(
    use: PluginUse, incoming: nn.Module, data: Data, batch_size: int, blocked: Sequence[str]
) -> Callable[[nn.Module], TimeRatio]:
    @cache
    def folder() -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="toolkit-timer-")

    def exported(model: nn.Module, name: str) -> ExportedModel:
        return export_model(use.plugin, use.params, model, data, Path(folder().name) / name)

    @cache
    def first() -> ExportedModel:
        return exported(incoming, "incoming")

    def measure(model: nn.Module) -> TimeRatio:
        # A process for each question: how weights lie in memory alone changes times by some percent.
        with (
            opened(first(), blocked) as before,
            opened(exported(model, "model"), blocked, before) as after,
        ):
            return _ratio(*pair_in_turn(after, before, data, batch_size, BUDGET_S))

    return measure


def _ratio(seconds: Floats, reference: Floats) -> TimeRatio:
    return TimeRatio(median_ratio(seconds, reference), *ratio_interval(seconds, reference))
