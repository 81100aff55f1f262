"""Charts of what is left after each stage, as bars from zero, with the change of the stage in words beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from toolkit.metrics import all_quantities
from toolkit.metrics.support.metric import Quantity, StageBars
from toolkit.number_text import plain, printable
from toolkit.report import Report
from toolkit.report.change_text import difference_text, factor_text, speed_text
from toolkit.report.charts.drawing import BAD, BASE, GOOD, INK, Chart, label_rows, new_axes, rows_height
from toolkit.report.charts.quality_scale import QualityScale, quality_scale
from toolkit.report.verdicts import differs, speed
from toolkit.rows import Interval

NO_CHANGE, NOT_SIGNIFICANT = "no change", "no significant change"


class Bar(NamedTuple):
    """A row of a chart: its value and the value it started from (None for the baseline), in units of the axis."""

    number: int
    label: str
    start: float | None
    value: float
    interval: Interval | None
    text: str
    change: str = ""
    """The change in words, for a stage that changed something."""
    differs: bool | None = None
    """Result of a test that is better than the interval, None without one."""
    improves: bool | None = None
    """Whether that test says that the change is for the better."""

    @property
    def is_unchanged(self) -> bool:
        """Whether there is no change, or only one within the interval."""
        if self.start is None or self.start == self.value:
            return True
        if self.differs is not None:
            return not self.differs
        return self.interval is not None and self.interval[0] <= self.start <= self.interval[1]

    @property
    def remark(self) -> str:
        """The change against the row that the stage started from, in words; empty for the baseline."""
        if self.start is None:
            return ""
        if self.start == self.value:
            return NO_CHANGE
        return NOT_SIGNIFICANT if self.is_unchanged else self.change


class Scale(NamedTuple):
    """Axis of a chart: its label, its values from the numbers of a row, and the text of a change."""

    axis: str
    lower_is_better: bool
    value: Callable[[float], float]
    text: Callable[[float], str]
    change: Callable[[float, float], str]
    tick: Callable[[float], str] = "{:g}".format


def stage_bars(report: Report) -> Iterator[Chart]:
    """Yield a chart for each metric of quality, and for each other number with a chart, by batch size if it has."""
    for metric in report.measured_qualities:
        form = quality_scale(metric, report.quality[metric])
        bars = bars_of(report, _scale_of_quality(form), metric, f"{metric}_interval")
        yield from _chart(f"stages-{metric}", form.title, bars, _scale_of_quality(form))
    for quantity in all_quantities().values():
        if quantity.bars is not None:
            yield from _of_quantity(report, quantity, quantity.bars)


def _scale_of_quality(form: QualityScale) -> Scale:
    return Scale(form.axis, form.lower_is_better, form.value, form.text, partial(difference_text, form.unit))


def _of_quantity(report: Report, quantity: Quantity, form: StageBars) -> Iterator[Chart]:
    words = ("smaller", "larger") if quantity.unit == "bytes" else ("lower", "higher")
    scale = Scale(form.axis, quantity.better == "lower", float, quantity.text, partial(factor_text, words), form.tick)
    for size in list(report.baseline.get(quantity.key) or {}) if quantity.by_batch_size else [""]:
        bars = bars_of(report, scale, quantity.key, quantity.interval, size)
        if quantity.key == "latency_ms":
            bars = [_timed(report, bar, size) for bar in bars]
        name = f"stages-{form.name}" + (f"-{size}" if size else "")
        title = form.title + (f" at batch {printable(size)}" if size else "")
        yield from _chart(name, title, bars, scale)


def _timed(report: Report, bar: Bar, size: str) -> Bar:
    """Return a latency with the verdict of its ratio, which distinguishes smaller changes than the spread of calls."""
    if bar.start is None:
        return bar
    factor = speed(report, report.start(bar.number), bar.number, size)
    return (
        bar
        if factor is None
        else bar._replace(differs=differs(factor), improves=factor[0] > 1, change=speed_text(factor[0]))
    )


def bars_of(report: Report, scale: Scale, name: str, interval: str, size: str = "") -> list[Bar]:
    """Return a bar for each row that has `name`, with the value of the row that its stage started from."""
    bars = []
    for number, row in enumerate(report.rows):
        value = row.number(name, size)
        if value is None:
            continue
        before = report.rows[report.start(number)].number(name, size) if number else None
        start = None if before is None else scale.value(before)
        around = row.interval(interval, size)
        ends = around and sorted(map(scale.value, around))
        change = "" if start is None else scale.change(start, scale.value(value))
        label = f"{number} {printable(row.stage)}"
        reach = (ends[0], ends[1]) if ends else None
        bars.append(Bar(number, label, start, scale.value(value), reach, scale.text(value), change))
    return bars


def _chart(name: str, title: str, bars: Sequence[Bar], scale: Scale) -> Iterator[Chart]:
    if not bars:
        return
    figure, axes = new_axes(rows_height(len(bars), lines=2))
    for place, bar in enumerate(bars):
        _draw(axes, place, bar, scale)
    if all(bar.value >= 0 for bar in bars):
        axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda tick, _: scale.tick(tick))
    axes.set_xlabel(scale.axis)
    label_rows(axes, [bar.label for bar in bars], ["\n".join(filter(None, [bar.text, bar.remark])) for bar in bars])
    text = f"{title} after each stage: " + ", ".join(f"{bar.label} {_in_words(bar)}" for bar in bars) + "."
    yield Chart(name, title, text, figure, [_record(bar, scale) for bar in bars])


def _in_words(bar: Bar) -> str:
    return bar.text + (f" ({bar.remark})" if bar.remark else "")


def _draw(axes: Axes, place: int, bar: Bar, scale: Scale) -> None:
    """Draw the value as a bar from zero in the color of its change, and the interval as a line with ends."""
    is_better = bar.improves
    if is_better is None:
        is_better = bar.start is not None and (bar.value < bar.start) == scale.lower_is_better
    axes.barh(place, bar.value, height=0.5, color=BASE if bar.is_unchanged else GOOD if is_better else BAD)
    if bar.interval is not None:
        axes.plot(bar.interval, [place, place], color=INK, linewidth=1.1, marker="|", markersize=7)


def _record(bar: Bar, scale: Scale) -> dict[str, str]:
    interval = "" if bar.interval is None else f"{plain(bar.interval[0])} … {plain(bar.interval[1])}"
    return {
        "stage": bar.label,
        "value": bar.text,
        "change by the stage": bar.remark,
        f"interval, {scale.axis.partition(',')[0]}": interval,
    }
