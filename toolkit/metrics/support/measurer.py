"""Measures the models of a run with all metrics, within the time budget of its recipe."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import MetricError, ToolkitError, described
from toolkit.metrics.quality import Answers, answers
from toolkit.metrics.support.metric import Metric, Progress, Subject
from toolkit.metrics.support.registry import all_metrics

log = logging.getLogger("toolkit")


class Measurer:
    """Measures one saved model after another against the baseline.

    A context manager: metrics may keep something open for all rows, such as a process.

    Args:
        baseline: first model to be measured; the others are compared with it.
        data: its test split is evaluated, or its validation split without one.
        batch_sizes: samples per timed call.
        budget_s: seconds for all rows. Only the timing adapts to it, and uses what the other metrics leave.
        rows: number of models that will be measured.
        metrics: what to measure, by name; all metrics by default.

    Attributes:
        seconds: how long each metric took for all rows so far, by its name.
    """

    def __init__(
        self,
        baseline: nn.Module,
        data: Data,
        batch_sizes: Sequence[int],
        budget_s: float,
        rows: int,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        self.baseline, self.data, self.batch_sizes = baseline, data, sorted(batch_sizes)
        self.split = "test" if data.test is not None else "validation"
        self.answers: Answers | None = None
        self.seconds: dict[str, float] = {}
        self._latest: tuple[nn.Module, Answers] | None = None
        self._left_s, self._rows = budget_s, rows
        self._metrics = all_metrics() if metrics is None else metrics
        self._sessions = ExitStack()
        self._session_of: dict[str, Any] = {}

    def __enter__(self) -> Measurer:
        for name, metric in self._metrics.items():
            self._session_of[name] = self._sessions.enter_context(metric.session())
        return self

    def __exit__(self, *error: Any) -> None:
        self._sessions.__exit__(*error)

    def measure(self, model: nn.Module, folder: Path, on_progress: Progress | None = None) -> dict[str, Any]:
        """Return the values of all metrics, by key, for a model that is saved in `folder`."""
        started, share_s = time.perf_counter(), self._left_s / max(1, self._rows)
        baseline_answers = self.answers
        model_answers = self._ask(model)
        row: dict[str, Any] = {}
        for name, metric in self._metrics.items():
            subject = Subject(
                model=model,
                data=self.data,
                baseline=self.baseline,
                answers=model_answers,
                baseline_answers=baseline_answers,
                folder=folder,
                batch_sizes=self.batch_sizes,
                seconds_left=lambda: share_s - (time.perf_counter() - started),
                session=self._session_of[name],
                on_progress=on_progress,
            )
            begun = time.perf_counter()
            row |= {key: _finite(value, key) for key, value in _values(name, metric, subject).items()}
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        # The remaining time is for later rows.
        self._left_s, self._rows = self._left_s - (time.perf_counter() - started), self._rows - 1
        return row

    def skip(self, model: nn.Module) -> None:
        """Count a row that an earlier run measured; of the baseline, still compute the answers."""
        if self.answers is None:
            self._ask(model)
        self._left_s, self._rows = self._left_s * (1 - 1 / max(1, self._rows)), self._rows - 1

    def took(self, seconds: float) -> None:
        """Subtract from the budget what other parts of measuring took."""
        self._left_s -= seconds

    def answers_of(self, model: nn.Module) -> Answers | None:
        """Return the answers of the last model that was measured, None for any other model."""
        return self._latest[1] if self._latest is not None and self._latest[0] is model else None

    def _ask(self, model: nn.Module) -> Answers:
        model_answers = answers(model, self.data, self.split)
        self._latest = model, model_answers
        self.answers = self.answers or model_answers
        return model_answers


def _values(name: str, metric: Metric, subject: Subject) -> dict[str, Any]:
    """Return the values of one metric; raise its errors as a `MetricError` that names it."""
    try:
        return dict(metric.measure(subject))
    except ToolkitError as error:
        raise MetricError(f"the metric '{name}': {error}") from error
    except Exception as error:
        raise MetricError(f"the metric '{name}' failed with {described(error)}") from error


def _finite(value: Any, key: str) -> Any:
    """Return a number or an interval, or None with a warning if it is not finite: JSON has no such numbers."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if all(not isinstance(number, float) or math.isfinite(number) for number in numbers):
        return value
    log.warning("%s is not finite and counts as not measured", key)
    return None
