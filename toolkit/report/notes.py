"""The notes and numbers of plugins, formatted for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from toolkit.number_text import plain, printable
from toolkit.report import Report
from toolkit.report.described_numbers import plugin_and_name, plugin_keys, quantity_of
from toolkit.report.equal_reasons import merge_equal_reasons
from toolkit.rows import BREACHES, WARNINGS, Note

MAX_TABLE_ROWS = 100  # on the page; report.md has all rows


class PageNote(NamedTuple):
    """A note: its title, its text and table, the number of omitted rows, and the name of its chart."""

    title: str
    text: str
    table: list[dict[str, str]]
    more: int
    chart: str


class PageNumber(NamedTuple):
    """A number that a plugin measured: its row, the plugin, a label with a hint for readers who point at it."""

    stage: str
    plugin: str
    label: str
    text: str
    hint: str


def notes_of(report: Report) -> list[PageNote]:
    """Return all notes, in the order of the rows."""
    return [
        _page_note(number, row.stage, name, note)
        for number, row in enumerate(report.rows)
        for name, note in row.notes.items()
        if name != WARNINGS  # which are at the top of the page
    ]


def warnings_of(report: Report) -> list[str]:
    """Return the warnings about rows and the broken promises, each with the stage of its row."""
    return [
        printable(f"{number} {row.stage}: {message}")
        for number, row in enumerate(report.rows)
        for name in (WARNINGS, BREACHES)
        if name in row.notes
        for message in _messages(row.notes[name])
    ]


def _messages(note: Note) -> list[str]:
    return [note.text] if note.text else [plain(line.get("warning")) for line in note.table if "warning" in line]


def plugin_numbers(report: Report) -> list[PageNumber]:
    """Return the numbers that plugins measured."""
    return [
        _page_number(report, f"{number} {row.stage}", key, row[key])
        for number, row in enumerate(report.rows)
        for key in plugin_keys(row)
    ]


def _page_number(report: Report, stage: str, key: str, value: float) -> PageNumber:
    """Return a number with its label, by default `output error` for the key `mine.output_error`."""
    quantity = quantity_of(report, key)
    plugin, name = plugin_and_name(key)
    hint = "; ".join(filter(None, [quantity.hint, f"{key} in report.json"]))
    return PageNumber(stage, plugin, quantity.title or name.replace("_", " ") or key, quantity.text(value), hint)


def _page_note(number: int, stage: str, name: str, note: Note) -> PageNote:
    rows = merge_equal_reasons(note.table)
    more = max(0, len(rows) - MAX_TABLE_ROWS)
    title = title_of(number, stage, name)
    return PageNote(title, note.text, table_as_text(rows), more, chart_name(number, name))


def chart_name(number: int, name: str) -> str:
    """Return the name of the chart of a note in row `number`."""
    return f"note-{number}-{name}"


def title_of(number: int, stage: str, name: str) -> str:
    """Return the title of a note on the page: `1 pruning: scan`, with the plugin if it is not the stage's name."""
    plugin, _, rest = name.partition(".")
    names = [rest.replace("_", " ")] if rest and plugin == stage else [plugin, rest.replace("_", " ")]
    return printable(": ".join(filter(None, [f"{number} {stage}", *names])))


def table_as_text(table: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the first `MAX_TABLE_ROWS` rows as text, each with all columns in the order of their first appearance."""
    table = table[:MAX_TABLE_ROWS]
    columns = list(dict.fromkeys(key for line in table for key in line))
    return [{printable(key): plain(line.get(key)) for key in columns} for line in table]
