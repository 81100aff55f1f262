"""The notes of the techniques as a page shows them: a text, and a table in which every cell is text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from toolkit.number_text import plain, printable
from toolkit.report import Report
from toolkit.rows import Note

LONGEST = 100  # rows of a table on the page; report.md has them all


class ShownNote(NamedTuple):
    """One note: where it comes from, what it says, and how many rows of its table are left out."""

    title: str
    text: str
    table: list[dict[str, str]]
    more: int
    chart: str
    """The name of the chart that its plot makes, if it makes one."""


class ShownNumber(NamedTuple):
    """A number that a technique measured, under its full name."""

    stage: str
    name: str
    text: str


def shown_notes(report: Report) -> list[ShownNote]:
    """All notes, in the order of the rows."""
    return [
        _shown(number, row.stage, name, note)
        for number, row in enumerate(report.rows)
        for name, note in row.notes.items()
    ]


def shown_numbers(report: Report) -> list[ShownNumber]:
    """The numbers that techniques and plugins measured: those with a dot in their name."""
    return [
        ShownNumber(f"{number} {row.stage}", name, plain(value))
        for number, row in enumerate(report.rows)
        for name, value in row.values.items()
        if "." in name and isinstance(value, (int, float))
    ]


def _shown(number: int, stage: str, name: str, note: Note) -> ShownNote:
    more = max(0, len(note.table) - LONGEST)
    title = title_of(number, stage, name)
    return ShownNote(title, note.text, table_as_text(note.table), more, chart_name(number, name))


def chart_name(number: int, name: str) -> str:
    """What the chart of a note of row `number` is called."""
    return f"note-{number}-{name}"


def title_of(number: int, stage: str, name: str) -> str:
    """What a note is called on the page: `1 pruning: pruning.scan`."""
    return printable(f"{number} {stage}: {name}")


def table_as_text(table: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The first lines, as many as the page shows, each with all columns in the order in which they first come up."""
    table = table[:LONGEST]
    columns = list(dict.fromkeys(key for line in table for key in line))
    return [{printable(key): plain(line.get(key)) for key in columns} for line in table]
