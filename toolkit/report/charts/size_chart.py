"""Chart of quality against size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from toolkit.metrics.support.quality_format import QualityFormat, quality_format
from toolkit.number_text import bytes_text, printable
from toolkit.report import Report
from toolkit.report.charts.drawing import BASE, MUTED, SERIES, Chart, new_axes, shortened, size_axis
from toolkit.rows import Interval

MAX_NAMED_POINTS = 9


class Point(NamedTuple):
    """A row: its size in bytes, and its quality and interval in units of the axis."""

    number: int
    stage: str
    size: float
    quality: float
    interval: Interval | None
    text: str


def quality_against_size(report: Report) -> Iterator[Chart]:
    """Yield a chart of the primary metric if at least two rows have it."""
    for metric in report.measured_qualities[:1]:
        form = quality_format(metric)
        points = _points(report, metric, form)
        if len(points) > 1:
            yield _chart(points, form)


def _points(report: Report, metric: str, form: QualityFormat) -> list[Point]:
    points = []
    for number, row in enumerate(report.rows):
        quality, size = row.number(metric), row.number("size_bytes")
        if quality is not None and size:
            around = row.interval(f"{metric}_interval")
            scaled = around and (around[0] * form.scale, around[1] * form.scale)
            points.append(Point(number, printable(row.stage), size, quality * form.scale, scaled, form.text(quality)))
    return points


def _chart(points: Sequence[Point], form: QualityFormat) -> Chart:
    figure, axes = new_axes(3.2, "both")
    for point in points:
        color = SERIES if point.number else BASE
        if point.interval is not None:
            axes.plot([point.size] * 2, point.interval, color=color, linewidth=1.3, alpha=0.8)
        axes.plot(point.size, point.quality, "o", color=color, markersize=7)
    _scale(axes, [point.size for point in points])
    axes.margins(y=0.15)
    _number_points(axes, points)
    _name_numbers(figure, points)
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.set_ylabel(form.axis)
    table = [{"stage": f"{p.number} {p.stage}", "size": bytes_text(p.size), form.title: p.text} for p in points]
    description = "; ".join(f"{line['stage']}: {line['size']}, {line[form.title]}" for line in table)
    return Chart("quality-size", f"{form.title} against size", f"{description}.", figure, table)


def _scale(axes: Axes, sizes: Sequence[float]) -> None:
    """Set a logarithmic axis with room for labels."""
    size_axis(axes, sizes)
    smallest, largest = min(sizes), max(sizes)
    room = 1.6 * (largest / smallest) ** 0.45
    axes.set_xlim(smallest / room, largest * room)
    axes.set_xlabel("size of the file, logarithmic")


def _number_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write the numbers of the rows next to their points; points that almost coincide share a label."""
    low, high = axes.get_ylim()
    groups: list[list[Point]] = []
    for point in points:
        near = next((group for group in groups if _coincide(group[0], point, 0.09 * (high - low))), None)
        groups.append([point]) if near is None else near.append(point)
    for group in groups:
        at = (max(point.size for point in group), sum(point.quality for point in group) / len(group))
        numbers = ", ".join(str(point.number) for point in group)
        axes.annotate(numbers, at, (8, 0), textcoords="offset points", fontsize=9, ha="left", va="center")


def _name_numbers(figure: Figure, points: Sequence[Point]) -> None:
    """Write number and stage of every row below the axes, in several columns; nothing if there are too many."""
    if len(points) > MAX_NAMED_POINTS:
        return
    names = [f"{point.number} {shortened(point.stage, 14)}" for point in points]
    nothing = [Line2D([], [], linestyle="") for _ in points]
    figure.legend(nothing, names, loc="outside lower center", ncols=3, handlelength=0, handletextpad=0)


def _coincide(one: Point, other: Point, near: float) -> bool:
    return abs(one.size / other.size - 1) < 0.15 and abs(one.quality - other.quality) <= near
