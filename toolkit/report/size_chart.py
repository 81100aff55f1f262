"""Quality against size: which stage is worth its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from toolkit.report import Report
from toolkit.report.drawing import BASE, MUTED, SERIES, Chart, new_axes, shortened
from toolkit.report.metrics import Interval, Quality, interval_of, quality_metric, shown_qualities, value_of
from toolkit.report.numbers import bytes_text, printable


class Point(NamedTuple):
    """One row: its size in bytes, its quality and interval in units of the axis."""

    number: int
    stage: str
    size: float
    quality: float
    interval: Interval | None
    text: str


def quality_against_size(report: Report) -> Iterator[Chart]:
    """One chart of the foremost metric, if two rows have it."""
    for metric in shown_qualities(report)[:1]:
        shown = quality_metric(metric)
        points = _points(report, metric, shown)
        if len(points) > 1:
            yield _chart(points, shown)


def _points(report: Report, metric: str, shown: Quality) -> list[Point]:
    points = []
    for number, row in enumerate(report.rows):
        quality, size = value_of(row, metric), value_of(row, "size_bytes")
        if quality is not None and size:
            around = interval_of(row, metric)
            scaled = around and (around[0] * shown.scale, around[1] * shown.scale)
            points.append(Point(number, printable(row.stage), size, quality * shown.scale, scaled, shown.text(quality)))
    return points


def _chart(points: Sequence[Point], shown: Quality) -> Chart:
    figure, axes = new_axes(2.9, "both")
    axes.set_xscale("log")
    for point in points:
        colour = SERIES if point.number else BASE
        if point.interval is not None:
            axes.plot([point.size] * 2, point.interval, color=colour, linewidth=1.3, alpha=0.8)
        axes.plot(point.size, point.quality, "o", color=colour, markersize=7)
    sizes = [point.size for point in points]
    _size_axis(axes, min(sizes), max(sizes))
    _name_points(axes, points)
    axes.margins(y=0.15)
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.set_ylabel(shown.axis)
    table = [{"stage": f"{p.number} {p.stage}", "size": bytes_text(p.size), shown.title: p.text} for p in points]
    told = "; ".join(f"{line['stage']}: {line['size']}, {line[shown.title]}" for line in table)
    return Chart("quality-size", f"{shown.title} against size", f"{told}.", figure, table)


def _size_axis(axes: Axes, smallest: float, largest: float) -> None:
    """Room for the labels, and about four round sizes as ticks."""
    axes.set_xlim(smallest / 1.5, largest * (largest / smallest) ** 0.25 * 1.5)
    decades = [lead * 10**power for power in range(2, 13) for lead in (1, 2, 5)]
    ticks = [size for size in decades if smallest / 1.4 <= size <= largest * 1.4]
    ticks = ticks[:: -(-len(ticks) // 4) or 1]
    axes.set_xticks(ticks, [bytes_text(size) for size in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("size of the file, logarithmic")


def _name_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write the stages beside their points; those whose points (nearly) coincide share a label."""
    spread = max(point.quality for point in points) - min(point.quality for point in points)
    groups: list[list[Point]] = []
    for point in points:
        near = next((group for group in groups if _coincide(group[0], point, 0.08 * spread)), None)
        groups.append([point]) if near is None else near.append(point)
    for group in groups:
        name = ", ".join(f"{point.number} {shortened(point.stage, 14)}" for point in group)
        at = (group[0].size, max(point.quality for point in group))
        axes.annotate(name, at, (7, 4), textcoords="offset points", fontsize=9)


def _coincide(one: Point, other: Point, near: float) -> bool:
    return abs(one.size / other.size - 1) < 0.15 and abs(one.quality - other.quality) <= near
