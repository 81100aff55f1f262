"""A run in words: what the stages gained and lost, as far as the intervals support it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from toolkit.metrics.support.quality_format import quality_format
from toolkit.metrics.support.rounds import MIN_ROUNDS_FOR_INTERVAL
from toolkit.number_text import bytes_text, half_width, percent, printable
from toolkit.report import Report
from toolkit.report.change_text import factor_text, speed_text
from toolkit.rows import Interval, Row

MIN_SIZE_CHANGE = 0.02  # names and headers in a file account for as much
MIN_SPEED_CHANGE = 0.02  # a smaller one has no practical effect
MAX_SPEED_DEVIATION = 0.05  # of the interval from 1, for a verdict of no change
MAX_ACCURACY_HALF_WIDTH = 0.01


def verdict(report: Report) -> str:
    """Return the run in two sentences: the gains in size and speed, and their cost in quality."""
    if len(report.rows) < 2:
        return "Only the baseline was measured."
    gains = _gains(report, 0, len(report.rows) - 1)
    gain = f"the model is {_listed(gains)}" if gains else "size and speed show no significant change"
    sentences = [*_slower_than_float_file(report.final), *_cost(report), *_untimed(report.final)]
    return " ".join([f"After {_steps(report)}, {gain}.", *sentences])


def _steps(report: Report) -> str:
    """Return what led to the last row: all stages, or for a file the stages of its model, and the export."""
    final = report.final
    if final.runtime is None:
        return _counted(sum(row.runtime is None for row in report.rows) - 1)
    number, stages = report.start(len(report.rows) - 1), 0
    while number:
        number, stages = report.start(number), stages + 1
    export = f"an export to {printable(final.runtime)}"
    return f"{_counted(stages)} and {export}" if stages else export


def _slower_than_float_file(row: Row) -> Iterator[str]:
    """Yield a sentence if a file is slower than that of the baseline: what was gained is then the runtime's alone."""
    slower = []
    for size, ratio in (row.get("runtime_ratio") or {}).items():
        interval = row.interval("runtime_ratio_interval", size)
        if interval is not None and interval[0] > 1 and ratio >= 1 + MIN_SPEED_CHANGE:
            slower.append(f"{speed_text(1 / ratio)} at batch {printable(size)}")
    if slower:
        other = f"the file of the baseline for {printable(row.runtime)}"
        yield f"On this machine its file is {_listed(slower)} than {other}."


def _untimed(row: Row) -> Iterator[str]:
    """Yield a sentence on the batch sizes without a ratio; few rounds may have another reason than a busy machine."""
    unknown = [size for size in row.get("latency_ms") or {} if row.number("latency_ratio", size) is None]
    few = [size for size in unknown if (row.number("latency_rounds", size) or 0) < MIN_ROUNDS_FOR_INTERVAL]
    busy = [size for size in unknown if size not in few]
    if busy:
        yield f"The machine was too busy to time batch {_listed([*map(printable, busy)])}."
    if few:
        sizes = _listed([*map(printable, few)])
        yield f"The machine was too busy to time batch {sizes}, or `budget` allows too few timings."


def _counted(stages: int) -> str:
    return "one stage" if stages == 1 else f"{stages} stages"


def _cost(report: Report) -> Iterator[str]:
    """Yield the second sentence if any quality was measured."""
    final = report.final
    parts = [*quality_changes(report, final), *_changes_without_interval(report), *_agreement(final)]
    if parts:
        subject = "It " if parts[0].startswith(("loses", "gains")) else ""
        cost = "; ".join(parts)
        yield f"{subject}{cost}." if subject else f"{cost[:1].upper()}{cost[1:]}."


def stage_verdicts(report: Report) -> list[str]:
    """Return a line per stage: size and speed against the row that it started from, quality against the baseline."""
    lines = []
    for number, row in enumerate(report.rows[1:], start=1):
        start = report.start(number)
        parts = [_zeros(report, start, number) or _listed(_gains(report, start, number))]
        parts += quality_changes(report, row, with_samples=False)
        changes = "; ".join(filter(None, parts))
        lines.append(f"{number} {printable(row.stage)}: {changes or 'no significant change'}")
    return lines


def quality_changes(report: Report, row: Row, with_samples: bool = True) -> list[str]:
    """Return the change of each metric of quality against the baseline, as far as its interval supports it."""
    samples = row.number("samples") if with_samples else None
    on = f" on {samples:,.0f} samples" if samples else ""
    changes = (_quality_change(report, row, metric, on) for metric in report.measured_qualities)
    return [change for change in changes if change]


def speed(report: Report, before: int, after: int, size: str) -> tuple[float, Interval] | None:
    """Return how many times as fast row `after` is as row `before`, with a 95 % interval; None without intervals.

    The two ratios to the baseline are independent measurements, so their squared relative errors add up. Ratios that
    were measured on different machines say nothing about each other: None, too.
    """
    if before and report.rows[before].timed_with != report.rows[after].timed_with:
        return None
    old, new = (_log_ratio(report, number, size) for number in (before, after))
    if old is None or new is None:
        return None
    middle, reach = old[0] - new[0], math.hypot(old[1], new[1])
    try:
        return math.exp(middle), (math.exp(middle - reach), math.exp(middle + reach))
    except OverflowError:  # of numbers that no run measures
        return None


def differs(speed_factor: tuple[float, Interval]) -> bool:
    """Return whether a change of speed is significant and large enough to matter."""
    factor, (low, high) = speed_factor
    return not low <= 1 <= high and abs(factor - 1) >= MIN_SPEED_CHANGE


def _log_ratio(report: Report, number: int, size: str) -> tuple[float, float] | None:
    if number == 0:
        return 0.0, 0.0
    row = report.rows[number]
    ratio, interval = row.number("latency_ratio", size), row.interval("latency_ratio_interval", size)
    if not ratio or interval is None or min(interval) <= 0:
        return None
    middle = math.log(ratio)
    return middle, max(math.log(interval[1]) - middle, middle - math.log(interval[0]), 0.0)


def _gains(report: Report, before: int, after: int) -> list[str]:
    return [*_size(report.rows[before], report.rows[after]), *_speeds(report, before, after)]


def _size(before: Row, after: Row) -> list[str]:
    old, new = before.number("size_bytes"), after.number("size_bytes")
    if not old or not new or abs(old / new - 1) < MIN_SIZE_CHANGE:
        return []
    return [f"{factor_text(('smaller', 'larger'), old, new)} ({bytes_text(old)} → {bytes_text(new)})"]


def _speeds(report: Report, before: int, after: int) -> list[str]:
    speeds = []
    for size in report.rows[after].get("latency_ratio") or {}:
        factor = speed(report, before, after, size)
        if factor is not None and differs(factor):
            is_slower = factor[0] < 1
            where = f"at batch {printable(size)}" + (" on this machine" if is_slower else "")
            speeds.append(f"{speed_text(factor[0])} {where}")
    return speeds


def _zeros(report: Report, before: int, after: int) -> str:
    """Return why zeros made the file no smaller, an empty string if they did or if there are no new ones."""
    old, new = report.rows[before], report.rows[after]
    more = (new.number("sparsity") or 0.0) - (old.number("sparsity") or 0.0)
    if more < 0.05 or _size(old, new) or new.number("size_bytes") is None:
        return ""
    zeros = f"{percent(new.number('sparsity'), 0)} zeros"
    factors = [speed(report, before, after, size) for size in new.get("latency_ratio") or {}]
    if factors and all(factor is not None and _is_same(factor) for factor in factors):
        return f"{zeros} change neither size nor speed: a dense file stores zeros, and dense arithmetic multiplies them"
    speeds = _listed(_speeds(report, before, after))
    return "; ".join(filter(None, [f"{zeros} do not change the size: a dense file stores zeros", speeds]))


def _is_same(speed_factor: tuple[float, Interval]) -> bool:
    factor, (low, high) = speed_factor
    return (
        not differs(speed_factor)
        and low > 1 - MAX_SPEED_DEVIATION
        and high < 1 + MAX_SPEED_DEVIATION
        and abs(factor - 1) < MAX_SPEED_DEVIATION
    )


def _quality_change(report: Report, row: Row, metric: str, on: str) -> str:
    change, interval = row.number(f"{metric}_change"), row.interval(f"{metric}_change_interval")
    if change is None or interval is None:
        return ""
    if interval[0] <= 0 <= interval[1]:
        return _no_change(metric, change, interval, on)
    better = (change > 0) == (report.quality.get(metric) != "lower")
    size = quality_format(metric).change(abs(change), _towards(change, interval)).lstrip("+")
    if metric == "accuracy":
        return f"{'gains' if better else 'loses'} {size} points of accuracy against the baseline{on}"
    return f"{printable(metric)} is {size} {'better' if better else 'worse'} than the baseline's{on}"


def _no_change(metric: str, change: float, interval: Interval, on: str) -> str:
    form = quality_format(metric)
    amount = " ".join(filter(None, [form.change(change, interval), form.unit]))
    if metric == "accuracy" and (half_width(change, interval) or 0) > MAX_ACCURACY_HALF_WIDTH:
        return f"too few samples for a verdict on accuracy ({amount}{on})"
    return f"no significant change in {form.name} ({amount}{on})"


def _towards(change: float, interval: Interval) -> Interval:
    return interval if change >= 0 else (-interval[1], -interval[0])


def _changes_without_interval(report: Report) -> Iterator[str]:
    for metric in report.measured_qualities:
        ends = [row.number(metric) for row in (report.baseline, report.final)]
        if report.final.interval(f"{metric}_change_interval") is None and None not in ends:
            before, after = (quality_format(metric).text(end) for end in ends if end is not None)
            yield f"{printable(metric)} changed from {before} to {after} (measured without an interval)"


def _agreement(row: Row) -> Iterator[str]:
    agreement = row.number("agreement")
    if agreement is not None:
        yield f"{percent(1 - agreement)} of the answers differ from the baseline's"


def _listed(parts: list[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
