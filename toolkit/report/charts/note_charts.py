"""Charts of the notes of techniques: lines over a column of a note's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeGuard

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from toolkit.number_text import plain, printable
from toolkit.report import Report
from toolkit.report.charts.drawing import BASE, MUTED, PRECISIONS, Chart, new_axes, shortened
from toolkit.report.notes import chart_name, table_as_text, title_of
from toolkit.rows import Note, Plot

# The page of any report, also of a third-party one, must be drawn in seconds.
MAX_CHARTS, MAX_LINES, MAX_ROWS = 24, 60, 2000
MAX_VALUE = 1e30  # a larger one leaves an axis no room for margins
MAX_NAMED_LINES = 8
MAX_MARKED_POINTS = 20  # longer lines have no markers
STYLES = ("-", "--")
MAX_LABEL_LENGTH = 40


class Line(NamedTuple):
    """A line: the value of its series, and its points in the order of the table."""

    name: str
    x: list[float]
    y: list[float]


def note_charts(report: Report) -> Iterator[Chart]:
    """Yield the charts of the first `MAX_CHARTS` notes that have a plot and something to draw."""
    drawn = (
        _chart(number, name, row.stage, note, note.plot)
        for number, row in enumerate(report.rows)
        for name, note in row.notes.items()
        if note.plot is not None
    )
    yield from islice((chart for chart in drawn if chart is not None), MAX_CHARTS)


def lines_of(table: Sequence[Mapping[str, Any]], plot: Plot) -> list[Line]:
    """Return the lines of a table, in the order of their series; rows without two numbers are skipped."""
    lines: dict[str, Line] = {}
    for row in table[:MAX_ROWS]:
        x, y = row.get(plot.x), row.get(plot.y)
        if _is_drawable(x) and _is_drawable(y):
            name = "" if plot.series is None else plain(row.get(plot.series))
            line = lines.setdefault(name, Line(name, [], []))
            line.x.append(float(x))
            line.y.append(float(y))
    return [*lines.values()][:MAX_LINES]


def _is_drawable(value: Any) -> TypeGuard[float]:
    # False for NaN as well.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_VALUE


def _chart(number: int, name: str, stage: str, note: Note, plot: Plot) -> Chart | None:
    lines = lines_of(note.table, plot)
    if not lines:
        return None
    named = _lines_with_largest_values(lines)
    named_by = plot.series is not None
    figure, axes = new_axes(2.6 + (0.2 * (len(named) // 2 + 1) if named_by else 0), "both")
    _draw(axes, lines, named)
    axes.margins(x=0.04, y=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.set_xlabel(_label(plot.x))
    axes.set_ylabel(_label(plot.y))
    if named_by:
        figure.legend(loc="outside lower center", ncols=2, handlelength=2.6)
    title = title_of(number, stage, name)
    return Chart(
        chart_name(number, name), title, _description(named, plot, len(lines)), figure, table_as_text(note.table)
    )


def _lines_with_largest_values(lines: Sequence[Line]) -> list[Line]:
    """Return the `MAX_NAMED_LINES` lines with the largest values, in the order of the table."""
    largest = sorted(range(len(lines)), key=lambda place: -max(map(abs, lines[place].y)))[:MAX_NAMED_LINES]
    return [lines[place] for place in sorted(largest)]


def _draw(axes: Axes, lines: Sequence[Line], named: Sequence[Line]) -> None:
    for place, line in enumerate(named):
        turn, color = divmod(place, len(PRECISIONS))
        axes.plot(
            line.x,
            line.y,
            color=PRECISIONS[color],
            linestyle=STYLES[turn],
            linewidth=1.7,
            marker=_marker(line),
            markersize=4,
            label=_label(line.name, 22) or "\N{NO-BREAK SPACE}",
        )
    others = [line for line in lines if line not in named]
    for place, line in enumerate(others):
        label = f"{len(others)} others" if not place else None
        axes.plot(line.x, line.y, color=BASE, linewidth=0.8, alpha=0.6, label=label, zorder=1.5)


def _marker(line: Line) -> str:
    return "o" if len(line.x) <= MAX_MARKED_POINTS else ""


def _label(text: str, longest: int = MAX_LABEL_LENGTH) -> str:
    # An underscore in front would hide a line from the legend.
    return shortened(printable(text), longest).replace("\n", " ").lstrip("_")


def _description(named: Sequence[Line], plot: Plot, count: int) -> str:
    lines = "; ".join(
        f"{_label(line.name) or 'it'} goes from {plain(line.y[0])} at {plain(line.x[0])} "
        f"to {plain(line.y[-1])} at {plain(line.x[-1])}"
        for line in named
    )
    more = f"; and {count - len(named)} lines with smaller values" if count > len(named) else ""
    return f"{_label(plot.y)} over {_label(plot.x)}: {lines}{more}."
