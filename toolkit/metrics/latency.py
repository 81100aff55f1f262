"""How long a model takes for a batch, on its own and against the baseline."""

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
from toolkit.metrics.support.metric import Column, Metric, Quantity, Subject, TableContent
from toolkit.number_text import half_width, milliseconds, printable
from toolkit.rows import Row
from toolkit.statistics import Interval, bootstrap_median_interval, median_interval
from toolkit.tasks import Batch
from toolkit.timing import median_ratio, ratio_interval, take_turns

Seconds = npt.NDArray[np.float64]

BLOCK_S = 0.01  # calls are timed together until they take this long: the clock's resolution does not matter then
WIDTH = 0.03  # of the interval, relative to the median: narrower ones end the repetitions
FEWEST_ROUNDS = 40  # of steady models
ENOUGH_ROUNDS = 80  # before that an interval may be narrow by chance and must be half as wide, or 92 % hold the truth
WARM_UP = 0.1  # share of the time
WARM_UP_S = 0.25  # at most
Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class Timing:
    """Seconds a call took in each round, (rounds,) float64 each; in a round the models were timed in turn."""

    model: Seconds
    baseline: Seconds

    @property
    def latency_ms(self) -> float:
        """The median time of a call, in milliseconds."""
        return float(np.median(self.model)) * 1e3

    @property
    def spread_ms(self) -> tuple[float, float]:
        """Between which times, in milliseconds, the middle half of the rounds lies."""
        low, high = np.quantile(self.model, [0.25, 0.75]) * 1e3
        return float(low), float(high)

    @property
    def ratio(self) -> float:
        """The median over the rounds of model time / baseline time: below 1 is faster."""
        return median_ratio(self.model, self.baseline)

    @property
    def ratio_interval(self) -> Interval:
        """The 95 % interval of the ratio."""
        return ratio_interval(self.model, self.baseline)

    @property
    def precise(self) -> bool:
        """Whether the interval is narrow enough: the ratio's, or for the baseline alone its time's."""
        if len(self.model) < FEWEST_ROUNDS:
            return False
        values = self.model if self.model is self.baseline else self.model / self.baseline
        width = (WIDTH if len(values) >= ENOUGH_ROUNDS else WIDTH / 2) * float(np.median(values))
        # The quicker interval first, for this is asked after every round.
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
    """Time a model in turn with the baseline, both as they are once saved: in eval mode, masks folded in.

    Args:
        model: on `data.device`; left as it was.
        baseline: the same, or `model` itself: then it is timed alone, in half the time, and its ratio is 1.
        data: its task feeds batches of the first training samples to the models.
        batch_sizes: samples a call.
        budget_s: seconds for everything, warm-up included; what models take to compile themselves comes on top.
            Less is used where the ratio is soon known to 3 %; more only where one call of each model takes longer.
        on_progress: told `(done_s, total_s)` now and then, and at the end with both equal.

    Returns:
        Each a dictionary by batch size, as text: `latency_ms`, the median milliseconds of a call;
        `latency_spread_ms`, the quartiles around it; `latency_ratio`, the median of model time over baseline time
        (below 1 is faster), and `latency_ratio_interval`, its 95 % interval.
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
    """What `latency` sums up, round by round and by batch size, for intervals and spreads."""
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
        self.calls = min(10 * self.calls, max(1, round(BLOCK_S / max(self.call_s, 1e-6))))
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
    warm = now + min(WARM_UP_S, WARM_UP * (deadline - now))
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
    """One column for each batch size: the time, and its ratio to the baseline's."""
    for place, size in enumerate(content.rows[0].get("latency_ms") or {}):
        explanation = f"median milliseconds per call with {size} samples, and its ratio to the baseline's"
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


MIN_BUDGET_S = 0.01  # where other metrics used up the whole share of the row
PLACE = 30
# What the interval of one run cannot know: two processes place the same weights differently in memory, and a machine is
# busier at one time than at another. By `tests/benchmarks/latency.py` ratios are up to 7 % apart, and between two whole
# runs up to 9 %; times, in which nothing cancels out, up to 22 %.
METRIC = Metric(
    _measure,
    (
        Quantity(
            "latency_ms",
            milliseconds,
            "median milliseconds per call",
            positive=True,
            interval_key="latency_spread_ms",
            between_runs=0.25,
            by_batch_size=True,
        ),
        Quantity(
            "latency_ratio",
            lambda ratio: f"×{ratio:.3f}",
            "time of a call divided by the baseline's, timed alternately",
            positive=True,
            between_runs=0.1,
            by_batch_size=True,
        ),
    ),
    _columns,
    order=90,
    place=PLACE,
)
