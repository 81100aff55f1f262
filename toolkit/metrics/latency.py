"""Time of a model for one batch, and its ratio to the baseline's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.metrics.support.deployed import as_deployed
from toolkit.metrics.support.metric import (
    POSITIVE,
    Column,
    Comparison,
    Metric,
    Quantity,
    Subject,
    TableContent,
    Waterfall,
)
from toolkit.number_text import half_width, milliseconds, printable
from toolkit.rows import Row
from toolkit.statistics import Interval, bootstrap_median_interval, median_interval
from toolkit.tasks import Batch
from toolkit.timing import median_ratio, ratio_interval, take_turns

Seconds = npt.NDArray[np.float64]

MIN_BLOCK_S = 0.01  # of calls timed together, well above the clock's resolution
MAX_RELATIVE_WIDTH = 0.03  # of the interval to the median, at the end of a measurement
MIN_ROUNDS = 40
# Fewer rounds may have a narrow interval by chance: they need half the width, or only 92 % of the intervals cover.
MIN_ROUNDS_AT_FULL_WIDTH = 80
WARM_UP_FRACTION = 0.1  # of the time budget
MAX_WARM_UP_S = 0.25
Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class Timing:
    """Seconds per call in each round, (rounds,) float64; a round times both models, one after the other."""

    model: Seconds
    baseline: Seconds

    @property
    def latency_ms(self) -> float:
        """Median time of a call, in milliseconds."""
        return float(np.median(self.model)) * 1e3

    @property
    def spread_ms(self) -> tuple[float, float]:
        """Quartiles of the time of a call, in milliseconds."""
        low, high = np.quantile(self.model, [0.25, 0.75]) * 1e3
        return float(low), float(high)

    @property
    def ratio(self) -> float:
        """Median of model time divided by baseline time; below 1 is faster."""
        return median_ratio(self.model, self.baseline)

    @property
    def ratio_interval(self) -> Interval:
        """95 % interval of the ratio."""
        return ratio_interval(self.model, self.baseline)

    @property
    def precise(self) -> bool:
        """Whether the interval is narrow enough: that of the ratio, or of the time if the baseline is timed alone."""
        if len(self.model) < MIN_ROUNDS:
            return False
        values = self.model if self.model is self.baseline else self.model / self.baseline
        width = (MAX_RELATIVE_WIDTH if len(values) >= MIN_ROUNDS_AT_FULL_WIDTH else MAX_RELATIVE_WIDTH / 2) * float(
            np.median(values)
        )
        # The cheap interval first: this runs after every round.
        return _width(median_interval(values)) < width and _width(bootstrap_median_interval(values)) < width


def _width(interval: Interval) -> float:
    return interval[1] - interval[0]


def latency(
    model: nn.Module,
    baseline: nn.Module,
    data: Data,
    batch_sizes: Iterable[int],
    budget_s: float,
    on_progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Time a model and the baseline alternately, both as they are saved: in eval mode, with masks folded in.

    Args:
        model: on `data.device`; unchanged afterwards.
        baseline: a second model, or `model` itself, which is then timed alone in half the time, with a ratio of 1.
        data: its task runs the models on batches of the first training samples.
        batch_sizes: samples per call.
        budget_s: seconds for all batch sizes, including warm-up, without the time that models take to compile. The
            measurement ends early when the ratio is known to 3 %; it exceeds the budget only if one call of each model
            does.
        on_progress: called repeatedly with `(done_s, total_s)`, and at the end with both equal.

    Returns:
        Dictionaries by batch size (as text): `latency_ms`, the median milliseconds per call; `latency_spread_ms`, its
        quartiles; `latency_ratio`, the median of model time divided by baseline time (below 1 is faster); and
        `latency_ratio_interval`, its 95 % interval.
    """
    measured = timings(model, baseline, data, batch_sizes, budget_s, on_progress)
    return {
        "latency_ms": {str(size): timing.latency_ms for size, timing in measured.items()},
        "latency_spread_ms": {str(size): list(timing.spread_ms) for size, timing in measured.items()},
        "latency_ratio": {str(size): timing.ratio for size, timing in measured.items()},
        "latency_ratio_interval": {str(size): list(timing.ratio_interval) for size, timing in measured.items()},
    }


def timings(
    model: nn.Module,
    baseline: nn.Module,
    data: Data,
    batch_sizes: Iterable[int],
    budget_s: float,
    on_progress: Progress | None = None,
) -> dict[int, Timing]:
    """Return the times that `latency` summarizes, by batch size."""
    alone = model is baseline
    budget = _Budget(budget_s / 2 if alone else budget_s, on_progress)
    sizes = list(dict.fromkeys(batch_sizes))
    measured = {}
    with ExitStack() as stack:
        models = [stack.enter_context(as_deployed(each)) for each in ([model] if alone else [model, baseline])]
        for done, size in enumerate(sizes):
            batch = data.example(size)
            watches = [_Stopwatch(each, data, batch) for each in models]
            measured[size] = _time_in_turn(watches, budget, budget.share(len(sizes) - done))
    budget.end()
    return measured


class _Stopwatch:
    """One model and one batch, timed in blocks of calls."""

    def __init__(self, model: nn.Module, data: Data, batch: Batch) -> None:
        self.model, self.data, self.batch = model, data, batch
        self.calls = 1
        self.call_s = 0.0
        self.compiling_s = 0.0  # the call in which a model was compiled
        # An accelerator is handed work and goes on by itself. Waiting once for a whole block would let a call
        # begin while the one before it is computed: that is throughput.
        self.waits = data.device.type != "cpu"

    @property
    def block_s(self) -> float:
        """How long the next block is going to take."""
        return self.calls * self.call_s

    def first(self) -> float:
        """Seconds of the first call; of the next one if the model compiled itself in the first."""
        before = _compilations()
        # What a module makes on its first call and keeps must be fit for training: not from inference mode.
        with torch.no_grad():
            seconds = self._timed()
        if _compilations() == before:
            return seconds
        self.compiling_s, self.calls = seconds, 1
        return self.block()

    def block(self) -> float:
        """Seconds a call takes, as the mean of a block."""
        with torch.inference_mode():
            return self._timed()

    def _timed(self) -> float:
        start = time.perf_counter()
        for _ in range(self.calls):
            self.data.task.forward(self.model, self.batch)
            if self.waits:
                torch.accelerator.synchronize(self.data.device)
        self.call_s = (time.perf_counter() - start) / self.calls
        # Ten times more at most, in case that the clock is too coarse for what it just timed.
        self.calls = min(10 * self.calls, max(1, round(MIN_BLOCK_S / max(self.call_s, 1e-6))))
        return self.call_s


def _compilations() -> int:
    """How many graphs `torch.compile` has compiled in this process so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # importing it takes seconds
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0


class _Budget:
    """The seconds that are there for all batch sizes together, and who is told about them."""

    def __init__(self, total_s: float, on_progress: Progress | None) -> None:
        self.total_s = total_s
        self.start = time.perf_counter()
        self.on_progress = on_progress
        self.told = self.start

    def share(self, parts: int) -> float:
        """The moment at which the first of so many equal parts of what is left ends."""
        now = time.perf_counter()
        return now + max(0.0, self.start + self.total_s - now) / parts

    def exclude(self, seconds: float) -> None:
        """What has just taken so long does not count."""
        self.start += seconds

    def tell(self) -> None:
        """Report progress, ten times a second at most: what listens costs time and caches."""
        now = time.perf_counter()
        if self.on_progress is not None and now - self.told >= 0.1:
            self.told = now
            self.on_progress(min(now - self.start, self.total_s), self.total_s)

    def end(self) -> None:
        """Report that everything is done."""
        if self.on_progress is not None:
            self.on_progress(self.total_s, self.total_s)


def _time_in_turn(watches: Sequence[_Stopwatch], budget: _Budget, deadline: float) -> Timing:
    """Rounds of one block each, until the result is precise or the deadline near; one round at least."""
    warming = [watch.first() for watch in watches]
    compiling_s = sum(watch.compiling_s for watch in watches)
    budget.exclude(compiling_s)
    deadline += compiling_s
    now = time.perf_counter()
    warm = now + min(MAX_WARM_UP_S, WARM_UP_FRACTION * (deadline - now))
    while _fits(watches, warm):
        warming = [watch.block() for watch in watches]

    def enough(rounds: list[list[float]]) -> bool:
        if rounds:
            budget.tell()
        return not _fits(watches, deadline) or bool(rounds and _timing(rounds).precise)

    rounds = take_turns([watch.block for watch in watches], enough)
    # Warming up is no measurement, unless there was no time for another call.
    return _timing(rounds or [warming])


def _timing(rounds: list[list[float]]) -> Timing:
    columns = np.array(rounds, dtype=np.float64).T
    model = columns[0]
    return Timing(model, model if len(columns) == 1 else columns[1])


def _fits(watches: Sequence[_Stopwatch], deadline: float) -> bool:
    return time.perf_counter() + sum(watch.block_s for watch in watches) <= deadline


def _columns(content: TableContent) -> Iterable[Column]:
    """Yield a column for each batch size, with the time and its ratio to the baseline's."""
    for place, size in enumerate(content.rows[0].get("latency_ms") or {}):
        explanation = f"median time of a call with {printable(size)} samples, and its ratio to the baseline's"
        explanation += " (ms; lower is better)"
        yield Column(f"ms @{printable(size)}", partial(_cell, size, content.detailed), 1 + place, explanation, PLACE)


def _cell(size: str, detailed: bool, row: Row, _: Row) -> str:
    time, ratio = row.number("latency_ms", size), row.number("latency_ratio", size)
    arm = None if ratio is None else half_width(ratio, row.interval("latency_ratio_interval", size))
    digits = 3 if detailed and arm else 2
    parts = ["" if time is None else f"{time:.3g}", "" if ratio is None else f"×{ratio:.{digits}f}"]
    return " ".join(filter(None, [*parts, f"±{arm:.3f}" if detailed and arm else ""]))


def _measure(subject: Subject) -> dict[str, Any]:
    budget_s = max(subject.seconds_left(), MIN_BUDGET_S)
    return latency(subject.model, subject.baseline, subject.data, subject.batch_sizes, budget_s, subject.on_progress)


def _ratio_text(ratio: float) -> str:
    return f"×{ratio:.3f}"


MIN_BUDGET_S = 0.01  # if the other metrics have used up the row's share
PLACE = 30
# Two processes place the same weights differently in memory, and a machine is busier at one time than at another. The
# interval of a single run includes neither. According to `tests/benchmarks/latency.py`, ratios differ by up to 7 %, and
# by up to 9 % between two complete runs; times, in which nothing cancels out, by up to 22 %.
LATENCY = Quantity(
    "latency_ms",
    milliseconds,
    "median time of a call",
    unit="ms",
    better="lower",
    bounds=POSITIVE,
    comparison=Comparison(between_runs=0.25),
    interval_key="latency_spread_ms",
    by_batch_size=True,
    waterfall=Waterfall("latency", "Latency", "ms, with the middle half of all calls"),
)
RATIO = Quantity(
    "latency_ratio",
    _ratio_text,
    "time of a call divided by the baseline's, timed alternately",
    better="lower",
    bounds=POSITIVE,
    comparison=Comparison(between_runs=0.1),
    by_batch_size=True,
)
METRIC = Metric(_measure, (LATENCY, RATIO), _columns, order=90, place=PLACE, rehearsed=False)
