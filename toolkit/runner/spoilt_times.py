"""Times that a busy machine has spoilt: how they are recognized, and timed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from toolkit.metrics.support.time_budget import MAX_BUDGETS

# Of the baseline's time in its own row and next to another row. A busy machine slows models differently: threads that
# wait actively for each other may take a hundred times as long, and those of another runtime no longer than before.
MAX_DRIFT = 2.0
OF_A_RATIO = ("latency_spread_ms", "latency_ratio", "latency_ratio_interval")
TIMES = ("latency_ms", "latency_rounds", *OF_A_RATIO)

Times: TypeAlias = Mapping[str, Any]
"""The values of a row whose keys are in `TIMES`, by batch size each."""
TimeSizes: TypeAlias = Callable[[Sequence[int], float], Times]
"""Times batch sizes within a budget in seconds."""


def spoilt_sizes(times: Times, baseline: Times) -> set[str]:
    """Return the batch sizes of a row that cannot be compared with the baseline's row.

    They have no ratio, because the machine was too busy for enough rounds, or the baseline's time has drifted. The time
    of a call divided by its ratio is the time of the baseline in the same rounds.
    """
    ratios, before = times.get("latency_ratio") or {}, baseline.get("latency_ms") or {}
    return {
        size
        for size, taken in (times.get("latency_ms") or {}).items()
        if size not in ratios or (size in before and not is_steady(taken / ratios[size], before[size]))
    }


def is_steady(now_ms: float, before_ms: float) -> bool:
    """Return whether two times of one model have been measured on an equally busy machine."""
    return 1 / MAX_DRIFT <= now_ms / before_ms <= MAX_DRIFT


def timed_until_steady(times: Times, baseline: Times, again: TimeSizes, share_s: float, deadline: float) -> Times:
    """Return a row's times, with spoilt ones taken again until they can be compared or the deadline has passed.

    Args:
        times: the row's times.
        baseline: the times of the baseline's row.
        again: times the row next to the baseline.
        share_s: budget of each repetition, which may take `MAX_BUDGETS` times as long.
        deadline: moment of `time.perf_counter`.
    """
    while (spoilt := spoilt_sizes(times, baseline)) and (left_s := deadline - time.perf_counter()) > 0:
        repeated = again(sorted(map(int, spoilt)), min(share_s, left_s / MAX_BUDGETS))
        times = replaced(times, repeated, spoilt)
    return times


def replaced(times: Times, new: Times, sizes: Collection[str]) -> dict[str, Any]:
    """Return times with those of some batch sizes replaced; the order of the sizes is kept."""
    order = list(times.get("latency_ms") or {})
    merged = {}
    for key in dict.fromkeys([*times, *new]):  # of an exported file, also the ratio to the baseline's file
        kept = {size: value for size, value in (times.get(key) or {}).items() if size not in sizes}
        of_key = {**kept, **{size: value for size, value in (new.get(key) or {}).items() if size in sizes}}
        merged[key] = {size: of_key[size] for size in order if size in of_key}
    return {**times, **merged}
