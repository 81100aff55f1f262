"""Rounds of a model and the baseline, one after the other, until their ratio is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolkit.metrics.support.stopwatch import MAX_BLOCK_S, Stopwatch
from toolkit.metrics.support.time_budget import TimeBudget
from toolkit.statistics import Interval, bootstrap_median_interval, median_interval
from toolkit.timing import is_known, median_ratio, ratio_interval, take_turns, turns

Seconds = npt.NDArray[np.float64]

MAX_RELATIVE_WIDTH = 0.03  # of the interval to the median, at the end of a measurement
# The fewest whose range covers the median with 95 %: the probability that all lie on one side is 2 / 2**6.
MIN_ROUNDS_FOR_INTERVAL = 6
MIN_ROUNDS = 40  # before a measurement may end early
# Fewer rounds may have a narrow interval by chance: they need half the width, or only 92 % of the intervals cover.
MIN_ROUNDS_AT_FULL_WIDTH = 80
ROUNDS_PER_CHECK = 10  # whether the result is precise: computing that displaces the models from the caches
MIN_BLOCK_S = 1e-4  # far above the clock's resolution still
WARM_UP_FRACTION = 0.1  # of the time budget
MAX_WARM_UP_S = 0.25


@dataclass(frozen=True)
class Timing:
    """Seconds per call in each round, (rounds,) float64; a round times both models, one after the other."""

    model: Seconds
    baseline: Seconds

    @property
    def is_alone(self) -> bool:
        """Whether there is no second model."""
        return self.model is self.baseline

    @property
    def has_ratio(self) -> bool:
        """Whether there are enough rounds for an interval of the ratio, and it says something."""
        return len(self.model) >= MIN_ROUNDS_FOR_INTERVAL and is_known(self.ratio_interval)

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
        values = self.model if self.is_alone else self.model / self.baseline
        share = MAX_RELATIVE_WIDTH if len(values) >= MIN_ROUNDS_AT_FULL_WIDTH else MAX_RELATIVE_WIDTH / 2
        width = share * float(np.median(values))
        # The cheap interval first: this runs after every round.
        return _width(median_interval(values)) < width and _width(bootstrap_median_interval(values)) < width


def time_rounds(watches: Sequence[Stopwatch], budget: TimeBudget, parts: int) -> Timing:
    """Time rounds of one block each until the result is precise, or the first of `parts` equal parts of time is over.

    If the machine is too busy for the rounds that an interval needs, the measurement goes on until
    `TimeBudget.limit`. There is at least one round.
    """
    deadline, limit = budget.share(parts), budget.limit(parts)
    warming = [watch.first() for watch in watches]
    compiling_s = sum(watch.compiling_s for watch in watches)
    budget.exclude(compiling_s)
    deadline, limit = deadline + compiling_s, limit + compiling_s
    _shorten_blocks(watches, deadline)
    now = time.perf_counter()
    warm = now + min(MAX_WARM_UP_S, WARM_UP_FRACTION * (deadline - now))
    while _fits(watches, warm):
        warming = [watch.block() for watch in watches]

    def enough(rounds: list[list[float]]) -> bool:
        end = deadline if len(rounds) >= MIN_ROUNDS_FOR_INTERVAL else limit
        if not _fits(watches, end):
            return True
        has_told, is_due = bool(rounds) and budget.tell(), bool(rounds) and len(rounds) % ROUNDS_PER_CHECK == 0
        if is_due and _timing(rounds).precise:
            return True
        if has_told or is_due:
            watches[turns(len(rounds), len(watches))[-1]].settle()
        return False

    # Warming up is no measurement, unless there was no time for another call.
    return _timing(take_turns([watch.block for watch in watches], enough) or [warming])


def _shorten_blocks(watches: Sequence[Stopwatch], deadline: float) -> None:
    """Let the rounds that an interval needs fit into half the time, if calls are short enough."""
    left_s = max(0.0, deadline - time.perf_counter())
    block_s = left_s / (2 * MIN_ROUNDS_FOR_INTERVAL * len(watches))
    for watch in watches:
        watch.block_target_s = min(MAX_BLOCK_S, max(MIN_BLOCK_S, block_s))


def _timing(rounds: list[list[float]]) -> Timing:
    columns = np.array(rounds, dtype=np.float64).T
    model = columns[0]
    return Timing(model, model if len(columns) == 1 else columns[1])


def _fits(watches: Sequence[Stopwatch], deadline: float) -> bool:
    return time.perf_counter() + sum(watch.block_s for watch in watches) <= deadline


def _width(interval: Interval) -> float:
    return interval[1] - interval[0]
