"""Rows of exported files: models are written, opened in clean processes, compared, timed and measured there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError, ToolkitError
from toolkit.exports.judge import Judge
from toolkit.exports.time_file import file_latencies
from toolkit.masks import folded
from toolkit.metrics import Answers
from toolkit.recipe.read import PluginUse
from toolkit.rows import Row
from toolkit.runner.export_attempt import Attempt, Request
from toolkit.runner.export_files import FloatFiles
from toolkit.runner.export_times import timed_together
from toolkit.runner.spoilt_times import Times

OnPhase = Callable[[Request, str], None]
EXPORTING, VERIFYING, TIMING = "exporting", "verifying", "timing"


@dataclass(frozen=True)
class ExportJob:
    """What the exports of one run have in common.

    `baseline_answers` computes those that the answers of files are compared with. `budget_s` is the time for timing one
    file. `blocked` are packages that cannot be imported where files are opened, besides the toolkit and its plugins.
    `baseline_times` are those of the baseline's row, which times of the same baseline now are compared with.
    """

    data: Data
    baseline: nn.Module
    baseline_answers: Callable[[], Answers]
    split: str
    batch_sizes: Sequence[int]
    budget_s: float
    blocked: Sequence[str] = ()
    baseline_times: Times = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Files are opened and timed on the CPU, wherever the run trains.
        object.__setattr__(self, "data", self.data.on_cpu())

    def row(self, name: str, use: PluginUse, model: nn.Module, folder: Path) -> Row:
        """Export one model as `rows` does; raise the error that it would return."""
        [outcome] = self.rows([Request(name, use, model, folder)])
        if isinstance(outcome, ToolkitError):
            raise outcome
        return outcome

    @torch.no_grad()
    def rows(self, requests: Sequence[Request], on_phase: OnPhase = lambda *_: None) -> list[Row | ToolkitError]:
        """Export models and return what was measured of each file, in the order of the requests.

        All files are written first, then compared, and at last timed in turn, with nothing beside them. A folder
        appears when its row is complete. In place of a row that has none is the error: the runtime rejects the model,
        or the file does not match it. The others are not concerned.

        Args:
            requests: what to export; each with a folder of its own.
            on_phase: called with what begins.
        """
        with ExitStack() as stack:
            floats = FloatFiles(self.baseline, self.data, stack)
            attempts = [stack.enter_context(Attempt(request, self.data, floats, self.blocked)) for request in requests]
            for attempt in sorted(attempts, key=self._place_in_order):
                on_phase(attempt.request, EXPORTING)
                attempt.do(attempt.begin)
            judges: dict[nn.Module, Judge] = {}
            for attempt in sorted(attempts, key=lambda attempt: attempt.request.goes_on_in_background):
                if attempt.error is None:
                    on_phase(attempt.request, VERIFYING)
                attempt.do(partial(self._verify, attempt, judges))
            self._time([attempt for attempt in attempts if attempt.error is None], on_phase)
            for attempt in attempts:
                attempt.close()
            for attempt in attempts:
                attempt.do(attempt.finish)
            return [attempt.outcome for attempt in attempts]

    def _place_in_order(self, attempt: Attempt) -> tuple[bool, bool]:
        """Sort what goes on in the background first, and then exports of the baseline, which others are timed with."""
        return not attempt.request.goes_on_in_background, attempt.request.model is not self.baseline

    def _verify(self, attempt: Attempt, judges: dict[nn.Module, Judge]) -> None:
        model = attempt.request.model
        if model not in judges:
            judges[model] = Judge(folded(model).eval().cpu(), self.data, self.split)
        attempt.verify(judges[model], self.baseline_answers)

    def _time(self, attempts: Sequence[Attempt], on_phase: OnPhase) -> None:
        """Time all files in turn; after an error, each of them alone, so that only the one that fails has no row."""
        for attempt in attempts[:1]:
            on_phase(attempt.request, TIMING)
        started = time.perf_counter()
        try:
            times = self._times(attempts)
        except TechniqueError:
            for attempt in attempts:
                attempt.do(partial(self._time_alone, attempt))
            return
        for attempt, of_file in zip(attempts, times, strict=True):
            attempt.add_times(of_file, (time.perf_counter() - started) / len(attempts))

    def _time_alone(self, attempt: Attempt) -> None:
        [times] = self._times([attempt])
        attempt.add_times(times)

    def _times(self, attempts: Sequence[Attempt]) -> list[Times]:
        files, baseline = [attempt.timed_file for attempt in attempts], folded(self.baseline).eval().cpu()
        timed = partial(file_latencies, baseline=baseline, data=self.data)
        return timed_together(files, timed, self.batch_sizes, self.budget_s, self.baseline_times)
