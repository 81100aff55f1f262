"""A comparison of two runs, for a terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tabulate import tabulate

from toolkit.report.compare import ComparedRuns, Number
from toolkit.report.page import render_template


class Section(NamedTuple):
    """A heading, the text if there are no lines, the titles of the columns, and the lines."""

    title: str
    nothing: str
    titles: tuple[str, ...]
    lines: Sequence[Sequence[str]]


def sections(comparison: ComparedRuns) -> list[Section]:
    """Return the differences, the most important ones first."""
    runs = _names(comparison)
    settings = Section("Settings that differ", "The recipes are the same.", ("place", *runs), comparison.settings)
    moved = Section(
        "Exact numbers that differ, and others that moved beyond their intervals",
        "No exact number differs, and no other one moved beyond its interval.",
        ("row", "number", *runs),
        _lines(comparison.of("moved")),
    )
    unknown = _lines(comparison.of("unknown"))
    others = Section("Other numbers without an interval", "", ("row", "number", *runs), unknown)
    single = _lines(comparison.of("alone"))
    alone = Section("Numbers that only one of the runs has", "", ("row", "number", *runs), single)
    return [settings, moved, *([others] if unknown else []), *([alone] if single else [])]


def remarks(comparison: ComparedRuns) -> Iterator[str]:
    """Yield sentences on everything that is not in a table."""
    within = len(comparison.of("within"))
    if within:
        yield f"{within} numbers are equal or differ by less than their intervals."
    if comparison.alone:
        yield f"Only one of the runs has: {', '.join(comparison.alone)}."


def as_text(comparison: ComparedRuns) -> str:
    """Return the comparison for a terminal."""
    parts = [
        f"{section.title}\n\n{tabulate(section.lines, headers=section.titles, disable_numparse=True)}\n"
        if section.lines
        else f"{section.nothing}\n"
        for section in sections(comparison)
    ]
    return "\n".join([*parts, *remarks(comparison)])


def as_page(comparison: ComparedRuns) -> str:
    """Return the comparison as one page of HTML."""
    return render_template(
        "difference.html.j2",
        title=" and ".join(_names(comparison)),
        sections=sections(comparison),
        remarks=list(remarks(comparison)),
    )


def _names(comparison: ComparedRuns) -> tuple[str, str]:
    return str(comparison.first), str(comparison.second)


def _lines(numbers: Sequence[Number]) -> list[tuple[str, ...]]:
    return [(number.row, number.name, number.first, number.second) for number in numbers]
