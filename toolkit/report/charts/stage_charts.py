"""Waterfalls: the change of quality, size and latency in each stage, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from toolkit.metrics import all_quantities
from toolkit.metrics.support.metric import Quantity, Waterfall
from toolkit.metrics.support.quality_format import quality_format
from toolkit.number_text import plain, printable
from toolkit.report import Report
from toolkit.report.charts.drawing import BAD, BASE, GOOD, INK, MUTED, Chart, label_rows, new_axes, rows_height
from toolkit.report.verdicts import differs, speed
from toolkit.rows import Interval


class Bar(NamedTuple):
    """A row of a waterfall, from `start` (None for the baseline) to `value`, in units of the axis."""

    number: int
    label: str
    start: float | None
    value: float
    interval: Interval | None
    text: str
    differs: bool | None = None
    """Result of a test that is better than the interval, None without one."""

    @property
    def is_unchanged(self) -> bool:
        """Whether there is no change, or only one within the interval."""
        if self.start is None or self.start == self.value:
            return True
        if self.differs is not None:
            return not self.differs
        return self.interval is not None and self.interval[0] <= self.start <= self.interval[1]


class Scale(NamedTuple):
    """Axis of a waterfall: its label, the factor from numbers to the axis, and whether it begins at zero."""

    axis: str
    factor: float
    from_zero: bool
    lower_is_better: bool
    tick: Callable[[float], str] = "{:g}".format


def waterfalls(report: Report) -> Iterator[Chart]:
    """Yield a chart for each metric of quality, and for each other number with a waterfall, by batch size if it has."""
    for metric in report.measured_qualities:
        form = quality_format(metric)
        scale = Scale(form.axis, form.scale, False, report.quality[metric] == "lower")
        bars = bars_of(report, scale, form.text, metric, f"{metric}_interval")
        yield from _chart(f"waterfall-{metric}", form.title, bars, scale)
    for quantity in all_quantities().values():
        if quantity.waterfall is not None:
            yield from _of_quantity(report, quantity, quantity.waterfall)


def _of_quantity(report: Report, quantity: Quantity, waterfall: Waterfall) -> Iterator[Chart]:
    scale = Scale(waterfall.axis, 1.0, True, quantity.better == "lower", waterfall.tick)
    for size in list(report.baseline.get(quantity.key) or {}) if quantity.by_batch_size else [""]:
        bars = bars_of(report, scale, quantity.text, quantity.key, quantity.interval, size)
        if quantity.key == "latency_ms":
            bars = [_compared(report, bar, size) for bar in bars]
        name = f"waterfall-{waterfall.name}" + (f"-{size}" if size else "")
        title = waterfall.title + (f" at batch {printable(size)}" if size else "")
        yield from _chart(name, title, bars, scale)


def _compared(report: Report, bar: Bar, size: str) -> Bar:
    """Return a latency with the verdict of its ratio, which distinguishes smaller changes than the spread of calls."""
    factor = speed(report, report.start(bar.number), bar.number, size)
    return bar._replace(differs=None if factor is None else differs(factor))


def bars_of(
    report: Report, scale: Scale, text: Callable[[float], str], name: str, interval: str, size: str = ""
) -> list[Bar]:
    """Return a bar for each row that has `name`, from the value of the row that its stage started from."""
    bars = []
    for number, row in enumerate(report.rows):
        value = row.number(name, size)
        if value is None:
            continue
        before = report.rows[report.start(number)].number(name, size) if number else None
        around = row.interval(interval, size)
        bars.append(
            Bar(
                number,
                f"{number} {printable(row.stage)}",
                None if before is None else before * scale.factor,
                value * scale.factor,
                around and (around[0] * scale.factor, around[1] * scale.factor),
                text(value),
            )
        )
    return bars


def _chart(name: str, title: str, bars: Sequence[Bar], scale: Scale) -> Iterator[Chart]:
    if not bars:
        return
    figure, axes = new_axes(rows_height(len(bars)))
    for place, bar in enumerate(bars):
        _draw(axes, place, bar, scale)
        if place + 1 < len(bars) and bars[place + 1].start == bar.value:
            axes.plot([bar.value] * 2, [place + 0.25, place + 0.75], color=MUTED, linewidth=0.9, linestyle=":")
    if scale.from_zero:
        axes.set_xlim(left=0)
    else:
        axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda tick, _: scale.tick(tick))
    axes.set_xlabel(scale.axis)
    label_rows(axes, [bar.label for bar in bars], [bar.text for bar in bars])
    text = f"{title} after each stage: " + ", ".join(f"{bar.label} {bar.text}" for bar in bars) + "."
    yield Chart(name, title, text, figure, [_record(bar, scale.axis.partition(",")[0]) for bar in bars])


def _draw(axes: Axes, place: int, bar: Bar, scale: Scale) -> None:
    """Draw the change as a bar, its end as a stroke, and the interval as a line with ends."""
    start = bar.start if bar.start is not None else 0.0 if scale.from_zero else bar.value
    is_better = (bar.value < start) == scale.lower_is_better
    color = BASE if bar.is_unchanged else GOOD if is_better else BAD
    axes.barh(place, bar.value - start, left=start, height=0.5, color=color)
    axes.plot([bar.value] * 2, [place - 0.25, place + 0.25], color=color, linewidth=3)
    if bar.interval is not None:
        axes.plot(bar.interval, [place, place], color=INK, linewidth=1.1, marker="|", markersize=7)


def _record(bar: Bar, unit: str) -> dict[str, str]:
    interval = "" if bar.interval is None else f"{plain(bar.interval[0])} … {plain(bar.interval[1])}"
    before = "" if bar.start is None else plain(float(bar.start))
    return {"stage": bar.label, f"before, {unit}": before, "after": plain(float(bar.value)), "interval": interval}
