"""Time of a model for one batch, and its ratio to the baseline's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

from toolkit.data.splits import Data
from toolkit.metrics.support.deployed import as_deployed
from toolkit.metrics.support.metric import (
    COUNT,
    POSITIVE,
    Column,
    Comparison,
    Metric,
    Quantity,
    StageBars,
    Subject,
    TableContent,
)
from toolkit.metrics.support.rounds import Timing, time_rounds
from toolkit.metrics.support.stopwatch import Stopwatch
from toolkit.metrics.support.time_budget import Progress, TimeBudget
from toolkit.number_text import half_width, milliseconds, printable
from toolkit.rows import Row


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
            measurement ends early when the ratio is known to 3 %. It takes up to three times the budget if the machine
            is too busy for the rounds that an interval needs, and longer only if one call of each model does.
        on_progress: called repeatedly with `(done_s, total_s)`, and at the end with both equal.

    Returns:
        Dictionaries by batch size (as text): `latency_ms`, the median milliseconds per call; `latency_spread_ms`, its
        quartiles; `latency_ratio`, the median of model time divided by baseline time (below 1 is faster); and
        `latency_ratio_interval`, its 95 % interval. They lack the sizes that had too few rounds for an interval, or
        too wide a one; the baseline's own ratio is always there. `latency_rounds` are the rounds of all sizes.
    """
    return latency_values(timings(model, baseline, data, batch_sizes, budget_s, on_progress))


def latency_values(measured: Mapping[int, Timing]) -> dict[str, dict[str, Any]]:
    """Return what `latency` returns, of times by batch size."""
    sure = {str(size): timing for size, timing in measured.items() if timing.has_ratio}
    compared = {str(size): timing for size, timing in measured.items() if timing.has_ratio or timing.is_alone}
    return {
        "latency_ms": {str(size): timing.latency_ms for size, timing in measured.items()},
        "latency_rounds": {str(size): len(timing.model) for size, timing in measured.items()},
        "latency_spread_ms": {size: list(timing.spread_ms) for size, timing in sure.items()},
        "latency_ratio": {size: timing.ratio for size, timing in compared.items()},
        "latency_ratio_interval": {size: list(timing.ratio_interval) for size, timing in compared.items()},
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
    budget = TimeBudget(budget_s / 2 if alone else budget_s, on_progress)
    sizes = list(dict.fromkeys(batch_sizes))
    measured = {}
    with ExitStack() as stack:
        models = [stack.enter_context(as_deployed(each)) for each in ([model] if alone else [model, baseline])]
        for done, size in enumerate(sizes):
            batch = data.example(size)
            watches = [Stopwatch(each, data, batch) for each in models]
            measured[size] = time_rounds(watches, budget, len(sizes) - done)
    budget.end()
    return measured


def _columns(content: TableContent) -> Iterable[Column]:
    """Yield a column for each batch size, with the time and its ratio to the baseline's."""
    for place, size in enumerate(content.rows[0].get("latency_ms") or {}):
        explanation = f"time of a call with {printable(size)} samples: the baseline's median time, multiplied by the"
        explanation += f" ratio to it, timed alternately (ms; lower is better; {UNKNOWN} if they could not be compared)"
        yield Column(
            f"ms @{printable(size)}", partial(_cell, size, content.detailed), min(1 + place, 9), explanation, PLACE
        )


def _cell(size: str, detailed: bool, row: Row, _: Row) -> str:
    time, ratio = row.number("latency_ms", size), row.number("latency_ratio", size)
    arm = None if ratio is None else half_width(ratio, row.interval("latency_ratio_interval", size))
    digits = 3 if detailed and arm else 2
    if time is None:
        return ""
    parts = [f"{time:.3g}", f"×{UNKNOWN}" if ratio is None else f"×{ratio:.{digits}f}"]
    return " ".join(filter(None, [*parts, f"±{arm:.3f}" if detailed and arm else ""]))


def _measure(subject: Subject) -> dict[str, Any]:
    budget_s = max(subject.seconds_left(), MIN_BUDGET_S)
    return latency(subject.model, subject.baseline, subject.data, subject.batch_sizes, budget_s, subject.on_progress)


def _ratio_text(ratio: float) -> str:
    return f"×{ratio:.3f}"


MIN_BUDGET_S = 0.01  # if the other metrics have used up the row's share
PLACE = 30
UNKNOWN = "?"  # a ratio of too few timings for an interval, of too wide a one, or of timings that a busy machine spoilt
# Two processes place the same weights differently in memory, and a machine is busier at one time than at another. The
# interval of a single run includes neither. According to `tests/benchmarks/latency.py`, ratios differ by up to 7 %, and
# by up to 9 % between two complete runs; times, in which nothing cancels out, by up to 22 %.
LATENCY = Quantity(
    "latency_ms",
    milliseconds,
    "the baseline's median time of a call, multiplied by the ratio",
    unit="ms",
    better="lower",
    bounds=POSITIVE,
    comparison=Comparison(between_runs=0.25),
    interval_key="latency_spread_ms",
    by_batch_size=True,
    bars=StageBars("latency", "Latency", "ms, with the middle half of all calls"),
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
ROUNDS = Quantity(
    "latency_rounds",
    explanation="rounds in which the model and the baseline were timed alternately",
    bounds=COUNT,
    comparison=None,
    by_batch_size=True,
)
METRIC = Metric(_measure, (LATENCY, RATIO, ROUNDS), _columns, order=90, place=PLACE, rehearsed=False)
