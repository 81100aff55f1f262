"""Rows of exported files: each model is written, opened in a clean process, compared, timed and measured there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import InputError, TechniqueError
from toolkit.exports.files import ExportedModel, export_model
from toolkit.exports.judge import compare
from toolkit.exports.process import OpenedFile
from toolkit.exports.time_file import file_latency
from toolkit.hooks.loading import installed
from toolkit.masks import folded
from toolkit.metrics import Answers, answers, quality
from toolkit.metrics.support.time_budget import MAX_BUDGETS
from toolkit.recipe.read import PluginUse
from toolkit.rows import Row
from toolkit.runner.spoilt_times import Times, TimeSizes, timed_until_steady
from toolkit.runner.technique_numbers import named_measures_of_files


@dataclass(frozen=True)
class ExportJob:
    """What the exports of one run have in common.

    `blocked` are packages that cannot be imported where files are opened, besides the toolkit and its plugins.
    `baseline_times` are those of the baseline's row, which times of the same baseline now are compared with.
    """

    data: Data
    baseline: nn.Module
    baseline_answers: Answers
    split: str
    batch_sizes: Sequence[int]
    budget_s: float
    blocked: Sequence[str] = ()
    baseline_times: Times = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Files are opened and timed on the CPU, wherever the run trains.
        object.__setattr__(self, "data", self.data.on_cpu())

    def row(self, name: str, use: PluginUse, model: nn.Module, folder: Path) -> Row:
        """Export a model and return what was measured of its file.

        Raises:
            TechniqueError: the runtime rejects the model, or the file does not match it; no folder is left
                then.
        """
        started = time.perf_counter()
        exported = export_model(use.plugin, use.params, model, self.data, folder)
        try:
            values = self._measured(exported, use, model)
        except BaseException:
            exported.remove()
            raise
        return Row(name, {**values, "duration_s": time.perf_counter() - started}, runtime=use.plugin.name)

    @torch.no_grad()
    def _measured(self, exported: ExportedModel, use: PluginUse, model: nn.Module) -> dict[str, Any]:
        with ExitStack() as stack:
            file = stack.enter_context(opened_alone(exported, self.blocked))
            comparison = compare(file, folded(model).eval().cpu(), self.data, self.split)
            if not comparison.is_close:
                raise TechniqueError(f"{use.plugin}: the exported file does not match the model, {comparison}")
            float_file = None if model is self.baseline else stack.enter_context(self._float_file(use, file))
            baseline = folded(self.baseline).eval().cpu()
            return {
                "size_bytes": exported.size_bytes,
                **quality(answers(file, self.data, self.split), self.baseline_answers),
                "output_error": comparison.output_error,
                "file_agreement": comparison.agreement,
                **self._times(partial(file_latency, file, baseline, float_file, self.data)),
                **named_measures_of_files(use, exported.folder),
            }

    def _times(self, timed: TimeSizes) -> Times:
        """Time the file, and again as long as the machine is too busy, in at most `MAX_BUDGETS` budgets."""
        deadline = time.perf_counter() + MAX_BUDGETS * self.budget_s
        times = timed(self.batch_sizes, self.budget_s)
        return timed_until_steady(times, self.baseline_times, timed, self.budget_s, deadline)

    def _float_file(self, use: PluginUse, beside: OpenedFile) -> OpenedFile:
        """Return the baseline's file of the same runtime, opened in the same process; it is deleted when closed."""
        folder = tempfile.TemporaryDirectory()
        exported = export_model(use.plugin, use.params, self.baseline, self.data, Path(folder.name) / "baseline")
        file = opened_alone(exported, self.blocked, beside)
        file.keep(folder)
        return file


def opened_alone(exported: ExportedModel, blocked: Sequence[str], beside: OpenedFile | None = None) -> OpenedFile:
    """Open a file where neither the toolkit, nor plugins, nor the `blocked` packages can be imported."""
    plugins = [plugin.entry_point.module.partition(".")[0] for plugin in installed()]
    try:
        return exported.opened(torch.get_num_threads(), [*plugins, *blocked], beside)
    except InputError as error:
        raise TechniqueError(f"{exported.plugin}: {error}") from error
