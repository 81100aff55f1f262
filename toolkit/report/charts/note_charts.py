"""Charts of the techniques' notes: lines over a column of a note's table, as its plot says."""

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

# A report may come from anywhere: whatever it holds, its page is drawn in seconds.
MOST_CHARTS, MOST_LINES, MOST_ROWS = 24, 60, 2000
LARGEST = 1e30  # beyond it an axis has no room for its margins
MOST_NAMED = 8
MOST_MARKED = 20  # points of a line that are marked each
STYLES = ("-", "--")
LONGEST_LABEL = 40


class Line(NamedTuple):
    """One line: the value of its series, and its points in the order of the table."""

    name: str
    x: list[float]
    y: list[float]


def note_charts(report: Report) -> Iterator[Chart]:
    """One chart for each note that has a plot and something to draw, of a report's first ones."""
    drawn = (
        _chart(number, name, row.stage, note, note.plot)
        for number, row in enumerate(report.rows)
        for name, note in row.notes.items()
        if note.plot is not None
    )
    yield from islice((chart for chart in drawn if chart is not None), MOST_CHARTS)


def lines_of(table: Sequence[Mapping[str, Any]], plot: Plot) -> list[Line]:
    """The lines of a table, in the order in which their series first come up; rows without two numbers are left out."""
    lines: dict[str, Line] = {}
    for row in table[:MOST_ROWS]:
        x, y = row.get(plot.x), row.get(plot.y)
        if _is_drawable(x) and _is_drawable(y):
            name = "" if plot.series is None else plain(row.get(plot.series))
            line = lines.setdefault(name, Line(name, [], []))
            line.x.append(float(x))
            line.y.append(float(y))
    return [*lines.values()][:MOST_LINES]


def _is_drawable(value: Any) -> TypeGuard[float]:
    # False for NaN as well.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def _chart(number: int, name: str, stage: str, note: Note, plot: Plot) -> Chart | None:
    lines = lines_of(note.table, plot)
    if not lines:
        return None
    named = _that_reach_furthest(lines)
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
    return Chart(chart_name(number, name), title, _told(named, plot, len(lines)), figure, table_as_text(note.table))


def _that_reach_furthest(lines: Sequence[Line]) -> list[Line]:
    """The lines with the largest values, so many as can be told apart, in the order of the table."""
    furthest = sorted(range(len(lines)), key=lambda place: -max(map(abs, lines[place].y)))[:MOST_NAMED]
    return [lines[place] for place in sorted(furthest)]


def _draw(axes: Axes, lines: Sequence[Line], named: Sequence[Line]) -> None:
    for place, line in enumerate(named):
        turn, colour = divmod(place, len(PRECISIONS))
        axes.plot(
            line.x,
            line.y,
            color=PRECISIONS[colour],
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
    return "o" if len(line.x) <= MOST_MARKED else ""


def _label(text: str, longest: int = LONGEST_LABEL) -> str:
    # An underscore in front would hide a line from the legend.
    return shortened(printable(text), longest).replace("\n", " ").lstrip("_")


def _told(named: Sequence[Line], plot: Plot, count: int) -> str:
    lines = "; ".join(
        f"{_label(line.name) or 'it'} goes from {plain(line.y[0])} at {plain(line.x[0])} "
        f"to {plain(line.y[-1])} at {plain(line.x[-1])}"
        for line in named
    )
    more = f"; and {count - len(named)} lines with smaller values" if count > len(named) else ""
    return f"{_label(plot.y)} over {_label(plot.x)}: {lines}{more}."
