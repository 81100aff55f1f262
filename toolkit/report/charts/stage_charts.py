"""Waterfalls: what each stage did to quality, bytes and latency, with the intervals of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from toolkit.metrics.support.quality_format import quality_format
from toolkit.number_text import bytes_text, milliseconds, plain, printable
from toolkit.report import Report
from toolkit.report.charts.drawing import BAD, BASE, GOOD, INK, MUTED, Chart, label_rows, new_axes, rows_height
from toolkit.report.verdicts import differs, speed
from toolkit.rows import Interval


class Bar(NamedTuple):
    """One row of a waterfall, in units of its axis: from `start` (None for the baseline) to `value`."""

    number: int
    label: str
    start: float | None
    value: float
    interval: Interval | None
    text: str
    differs: bool | None = None
    """Whether a better test than the interval says that this is another value."""

    @property
    def is_unchanged(self) -> bool:
        """Whether there is no change, or one within the interval."""
        if self.start is None or self.start == self.value:
            return True
        if self.differs is not None:
            return not self.differs
        return self.interval is not None and self.interval[0] <= self.start <= self.interval[1]


class Scale(NamedTuple):
    """The axis of a waterfall: its unit, how the numbers become those of the axis, whether it begins at zero."""

    axis: str
    factor: float
    from_zero: bool
    lower_is_better: bool
    tick: Callable[[float], str] = "{:g}".format


def waterfalls(report: Report) -> Iterator[Chart]:
    """One chart for each metric of quality, one for the bytes, one for the latency at each batch size."""
    for metric in report.measured_qualities:
        shown = quality_format(metric)
        scale = Scale(shown.axis, shown.scale, False, report.quality[metric] == "lower")
        steps = steps_of(report, scale, shown.text, metric, f"{metric}_interval")
        yield from _waterfall(f"waterfall-{metric}", shown.title, steps, scale)
    scale = Scale("size of the file", 1.0, True, True, bytes_text)
    yield from _waterfall("waterfall-bytes", "Size", steps_of(report, scale, bytes_text, "size_bytes"), scale)
    for size in report.baseline.get("latency_ms") or {}:
        scale = Scale("ms, with the middle half of all calls", 1.0, True, True)
        steps = steps_of(report, scale, milliseconds, "latency_ms", "latency_spread_ms", size)
        steps = [_compared(report, step, size) for step in steps]
        yield from _waterfall(f"waterfall-latency-{size}", f"Latency at batch {printable(size)}", steps, scale)


def _compared(report: Report, step: Bar, size: str) -> Bar:
    """A latency whose ratio, timed in turn, says more about a change than the spread of all calls does."""
    found = speed(report, report.start(step.number), step.number, size)
    return step._replace(differs=None if found is None else differs(found))


def steps_of(
    report: Report, scale: Scale, text: Callable[[float], str], name: str, interval: str = "", key: str = ""
) -> list[Bar]:
    """The rows in which `name` was measured, each beginning at the value of the row that it started from."""
    steps = []
    for number, row in enumerate(report.rows):
        value = row.number(name, key)
        if value is None:
            continue
        before = report.rows[report.start(number)].number(name, key) if number else None
        around = row.interval(interval, key) if interval else None
        steps.append(
            Bar(
                number,
                f"{number} {printable(row.stage)}",
                None if before is None else before * scale.factor,
                value * scale.factor,
                around and (around[0] * scale.factor, around[1] * scale.factor),
                text(value),
            )
        )
    return steps


def _waterfall(name: str, title: str, steps: Sequence[Bar], scale: Scale) -> Iterator[Chart]:
    if not steps:
        return
    figure, axes = new_axes(rows_height(len(steps)))
    for place, step in enumerate(steps):
        _bar(axes, place, step, scale)
        if place + 1 < len(steps) and steps[place + 1].start == step.value:
            axes.plot([step.value] * 2, [place + 0.25, place + 0.75], color=MUTED, linewidth=0.9, linestyle=":")
    if scale.from_zero:
        axes.set_xlim(left=0)
    else:
        axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda tick, _: scale.tick(tick))
    axes.set_xlabel(scale.axis)
    label_rows(axes, [step.label for step in steps], [step.text for step in steps])
    text = f"{title} after each stage: " + ", ".join(f"{step.label} {step.text}" for step in steps) + "."
    yield Chart(name, title, text, figure, [_told(step, scale.axis.partition(",")[0]) for step in steps])


def _bar(axes: Axes, place: int, step: Bar, scale: Scale) -> None:
    """The change as a bar, its end as a stroke, the interval as a line with ends."""
    start = step.start if step.start is not None else 0.0 if scale.from_zero else step.value
    better = (step.value < start) == scale.lower_is_better
    colour = BASE if step.is_unchanged else GOOD if better else BAD
    axes.barh(place, step.value - start, left=start, height=0.5, color=colour)
    axes.plot([step.value] * 2, [place - 0.25, place + 0.25], color=colour, linewidth=3)
    if step.interval is not None:
        axes.plot(step.interval, [place, place], color=INK, linewidth=1.1, marker="|", markersize=7)


def _told(step: Bar, unit: str) -> dict[str, str]:
    interval = "" if step.interval is None else f"{plain(step.interval[0])} … {plain(step.interval[1])}"
    before = "" if step.start is None else plain(float(step.start))
    return {"stage": step.label, f"before, {unit}": before, "after": plain(float(step.value)), "interval": interval}
