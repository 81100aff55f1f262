"""What the numbers mean, in plain words, and only as far as their intervals support it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from toolkit.metrics.support.quality_format import quality_format
from toolkit.number_text import bytes_text, half_width, percent, printable
from toolkit.report import Report
from toolkit.rows import Interval, Row

SAME_SIZE = 0.02  # the names and headers in a file differ by so much
WORTH_SAYING = 0.02  # a model 1 % faster is not faster to anybody
SAME_SPEED = 0.05  # how narrow around 1 the interval must be to say that nothing changed
TOO_WIDE_ACCURACY = 0.01


def verdict(report: Report) -> str:
    """The whole run in two sentences: what was gained in size and speed, and what that cost in quality."""
    if len(report.rows) < 2:
        return "Only the baseline was measured."
    gains = _gains(report, 0, len(report.rows) - 1)
    first = f"the model is {_listed(gains)}" if gains else "no difference of size or speed can be told from noise"
    return " ".join([f"After {_steps(report)} {first}.", *_price(report)])


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


def _counted(stages: int) -> str:
    return "one stage" if stages == 1 else f"{stages} stages"


def _price(report: Report) -> Iterator[str]:
    """The second sentence, where any quality was measured."""
    final = report.final
    said = [*quality_changes(report, final), *_unsure(report), *_agreement(final)]
    if said:
        subject = "It " if said[0].startswith(("loses", "gains")) else ""
        price = "; ".join(said)
        yield f"{subject}{price}." if subject else f"{price[:1].upper()}{price[1:]}."


def stage_verdicts(report: Report) -> list[str]:
    """One line for every stage, read against the row that it started from; quality against the baseline."""
    lines = []
    for number, row in enumerate(report.rows[1:], start=1):
        start = report.start(number)
        parts = [_zeros(report, start, number) or _listed(_gains(report, start, number))]
        parts += quality_changes(report, row, with_samples=False)
        said = "; ".join(filter(None, parts))
        lines.append(f"{number} {printable(row.stage)}: {said or 'nothing that can be told from noise'}")
    return lines


def quality_changes(report: Report, row: Row, with_samples: bool = True) -> list[str]:
    """What became of each metric of quality against the baseline, as far as the interval of the change says."""
    samples = row.number("samples") if with_samples else None
    on = f" on {samples:,.0f} samples" if samples else ""
    changes = (_quality_change(report, row, metric, on) for metric in report.measured_qualities)
    return [change for change in changes if change]


def speed(report: Report, before: int, after: int, size: str) -> tuple[float, Interval] | None:
    """How many times as fast a row is as another at a batch size, with a 95 % interval; None without intervals.

    Each ratio was measured against the baseline on its own, so that of two of them the relative errors add in squares.
    """
    old, new = (_log_ratio(report, number, size) for number in (before, after))
    if old is None or new is None:
        return None
    middle, reach = old[0] - new[0], math.hypot(old[1], new[1])
    return math.exp(middle), (math.exp(middle - reach), math.exp(middle + reach))


def differs(found: tuple[float, Interval]) -> bool:
    """Whether a speed is another one: its interval leaves 1 out, by more than nobody would notice."""
    factor, (low, high) = found
    return not low <= 1 <= high and abs(factor - 1) >= WORTH_SAYING


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
    if not old or not new or abs(old / new - 1) < SAME_SIZE:
        return []
    change = f"{_times(old / new)} smaller" if new < old else f"{_times(new / old)} larger"
    return [f"{change} ({bytes_text(old)} → {bytes_text(new)})"]


def _speeds(report: Report, before: int, after: int) -> list[str]:
    said = []
    for size in report.rows[after].get("latency_ratio") or {}:
        found = speed(report, before, after, size)
        if found is not None and differs(found):
            slower = found[0] < 1
            why = " (these layers are too small for it)" if slower and _fewer_bits(report, before, after, size) else ""
            said.append(f"{_times(found[0])} as fast {'here ' if slower else ''}at batch {printable(size)}{why}")
    return said


def _fewer_bits(report: Report, before: int, after: int, size: str) -> bool:
    """Whether the weights became narrower and not fewer, and the smallest batch is the one that suffers."""
    old, new = report.rows[before], report.rows[after]
    sizes = [row.number("size_bytes") for row in (old, new)]
    counts = [row.number("parameters") for row in (old, new)]
    if None in sizes or None in counts or counts[0] != counts[1]:
        return False
    return size == next(iter(new.get("latency_ratio"))) and sizes[1] < 0.8 * sizes[0]  # type: ignore[operator]


def _zeros(report: Report, before: int, after: int) -> str:
    """What to know of zeros that made the file neither smaller nor faster."""
    old, new = report.rows[before], report.rows[after]
    more = (new.number("sparsity") or 0.0) - (old.number("sparsity") or 0.0)
    if more < 0.05 or _size(old, new) or new.number("size_bytes") is None:
        return ""
    zeros = f"{percent(new.number('sparsity'), 0)} zeros changed"
    sizes = new.get("latency_ratio") or {}
    found = [speed(report, before, after, size) for size in sizes]
    if found and all(one is not None and _is_same(one) for one in found):
        return f"{zeros} neither size nor speed of the dense file: zeros are stored and multiplied like other weights"
    rest = _listed(_speeds(report, before, after))
    return f"{zeros} nothing about the size of the dense file: zeros are stored like other weights" + (
        f"; {rest}" if rest else ""
    )


def _is_same(found: tuple[float, Interval]) -> bool:
    factor, (low, high) = found
    return not differs(found) and low > 1 - SAME_SPEED and high < 1 + SAME_SPEED and abs(factor - 1) < SAME_SPEED


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
    return f"{printable(metric)} is {'better' if better else 'worse'} by {size} than the baseline's{on}"


def _no_change(metric: str, change: float, interval: Interval, on: str) -> str:
    shown = quality_format(metric)
    amount = " ".join(filter(None, [shown.change(change, interval), shown.unit]))
    if metric == "accuracy" and (half_width(change, interval) or 0) > TOO_WIDE_ACCURACY:
        return f"too few samples to tell a change of accuracy from chance ({amount}{on})"
    return f"no measurable {'loss' if metric == 'accuracy' else 'change'} of {shown.name} ({amount}{on})"


def _towards(change: float, interval: Interval) -> Interval:
    return interval if change >= 0 else (-interval[1], -interval[0])


def _unsure(report: Report) -> Iterator[str]:
    """Metrics that were measured without an interval: what they are, and no verdict."""
    for metric in report.measured_qualities:
        ends = [row.number(metric) for row in (report.baseline, report.final)]
        if report.final.interval(f"{metric}_change_interval") is None and None not in ends:
            before, after = (quality_format(metric).text(end) for end in ends if end is not None)
            yield f"{printable(metric)} went from {before} to {after}, measured without an interval"


def _agreement(row: Row) -> Iterator[str]:
    agreement = row.number("agreement")
    if agreement is not None:
        yield f"{percent(1 - agreement)} of all answers are others than the baseline's"


def _times(factor: float) -> str:
    return f"{factor:.1f}×" if factor >= 9.95 else f"{factor:.2f}×"


def _listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
