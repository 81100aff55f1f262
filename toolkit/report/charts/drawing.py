"""Size, colors and elements of all charts, without pyplot's global state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.number_text import bytes_text

# A page replaces these with its own colors, in light or dark mode.
INK, MUTED, FAINT = "#1d2129", "#6a7280", "#d5d9e0"
BASE, SERIES, GOOD, BAD = "#7d8694", "#2f6fd0", "#1f8a57", "#c8452f"
PRECISIONS = ("#2f6fd1", "#b7791f", "#7a4fc0", "#0f7f8c")
WIDTH = 4.5  # inches: read at about its natural size on a phone
STYLE: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a layer may be called "$\\x"
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Chart:
    """A figure, with its content in words and numbers for readers who cannot see it."""

    name: str
    title: str
    text: str
    figure: Figure
    table: Sequence[Mapping[str, str]]


@contextmanager
def style() -> Iterator[None]:
    """Apply the report's style inside; restore matplotlib's settings afterwards."""
    settings: Any = dict(STYLE)  # whose type lists every setting there is
    with matplotlib.rc_context(settings):
        yield


def new_axes(height: float, grid: str = "x") -> tuple[Figure, Axes]:
    """Return a figure `WIDTH` inches wide with one pair of axes and a faint grid along `x`, `y` or `both`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, axis=grid)  # type: ignore[arg-type]  # a literal there
    axes.tick_params(length=0)
    return figure, axes


def rows_height(rows: int, lines: int = 1) -> float:
    """Return the height of a chart with `rows` labeled rows whose notes have `lines` lines, in inches."""
    return 0.65 + (0.36 if lines == 1 else 0.44) * rows


def label_rows(axes: Axes, labels: Sequence[str], notes: Sequence[str]) -> None:
    """Label the rows of a horizontal chart from the top, with notes on the right."""
    axes.set_yticks(range(len(labels)), [shortened(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(notes)), ["\n".join(shortened(line, 22) for line in note.split("\n")) for note in notes])
    right.tick_params(length=0, labelcolor=MUTED, labelsize=9.5)
    right.spines["right"].set_visible(False)


def size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """Set a logarithmic axis of bytes with a few round ticks, from well below the smallest size."""
    smallest, largest = max(min(sizes), 1), max(*sizes, 1)
    axes.set_xlim(smallest / 3, largest * 1.6)  # before the scale: with nothing above zero it would guess, and warn
    axes.set_xscale("log")
    axes.set_xlim(smallest / 3, largest * 1.6)
    leads = (1, 2, 5) if largest / smallest < 30 else (1,)
    ticks = [lead * 10**power for power in range(13) for lead in leads]
    ticks = [size for size in ticks if smallest / 3 <= size <= largest * 1.6]
    axes.set_xticks(ticks[:: max(1, -(-len(ticks) // 4))])
    axes.xaxis.set_major_formatter(lambda size, _: bytes_text(size))
    axes.set_xticks([], minor=True)


def shortened(name: str, longest: int = 18) -> str:
    """Return a name that fits: an ellipsis and the end, which distinguishes layers."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"
