"""A report as a table: for a terminal of any width, for Markdown, and for a page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tabulate import tabulate

from toolkit.metrics import all_metrics
from toolkit.metrics.support.metric import Column, TableContent
from toolkit.number_text import plain, printable
from toolkit.report import Report
from toolkit.report.described_numbers import described_lines
from toolkit.report.equal_reasons import merge_equal_reasons
from toolkit.report.unknown_metrics import unknown_numbers
from toolkit.report.verdicts import stage_verdicts, verdict
from toolkit.rows import MAX_INTEGER, Note, Row

REUSED = "↺"
REUSED_MEANS = f"{REUSED} computed by an earlier run; the times were measured in that run."
MAX_NOTE_ROWS = 8  # rows of a note's table on a terminal
UNKNOWN_DISPENSABLE = 1000
MAX_CONTINUED = 9  # `dispensable` of columns that verdicts speak of
ENVIRONMENT_KEYS = ("processor", "threads", "device", "torch")


class Heading(NamedTuple):
    """The title of a column, and a sentence that explains it."""

    title: str
    explanation: str


def as_text(report: Report, width: int = 80) -> str:
    """Return the table, the verdicts and the notes for a terminal of `width` characters.

    Columns that do not fit are dropped, the least important ones first, and listed below the table. Those that the
    verdicts speak of continue in another table.
    """
    columns = columns_of(report)
    parts = _parts(report, columns, width)
    shown = {column.title for part in parts for column in part}
    table = "\n\n".join(_table(report, part, "simple") for part in parts)
    dropped = _dropped(report, [column.title for column in columns if column.title not in shown], width)
    notes = [f"\n{line}" for line in _notes(report, "simple", MAX_NOTE_ROWS)]
    return "\n".join(
        [table, "", *dropped, *_reused(report), *_verdicts(report, width), *_numbers(report, width), *notes]
    )


def as_markdown(report: Report) -> str:
    """Return the verdicts, the table with all intervals, and the notes, as Markdown."""
    where = ", ".join(f"{key} {report.environment[key]}" for key in ENVIRONMENT_KEYS if key in report.environment)
    notes = "".join(f"\n{line}\n" for line in [*map(printable, described_lines(report)), *_notes(report, "github")])
    verdicts = "".join(f"- {line}\n" for line in stage_verdicts(report))
    table = _table(report, columns_of(report, detailed=True), "github")
    reused = "".join(f"{line}\n" for line in _reused(report))
    return f"# {report.name}\n\n{verdict(report)}\n\n{table}\n\n{reused}{verdicts}\nMeasured on: {where}.\n{notes}"


def cells(report: Report) -> tuple[list[Heading], list[list[str]]]:
    """Return the headings and the rows of the complete table, with all intervals; number and stage share a column."""
    columns = columns_of(report, detailed=True)
    first = Heading("row", "number of the row, and the stage that it shows")
    headings = [first, *(Heading(column.title, column.explanation) for column in columns[1:])]
    return headings, [[f"{number} {stage}", *others] for number, stage, *others in _lines(report, columns)]


def columns_of(report: Report, detailed: bool = False) -> list[Column]:
    """Return the columns that are not empty, the most important ones first; `detailed` adds intervals to latencies."""
    content = TableContent(report.rows, report.quality, detailed)
    of_metrics = [column for metric in all_metrics().values() for column in metric.columns_of(content)]
    columns = [*_identity(), *sorted(of_metrics, key=lambda column: column.place), *_unknown(report)]
    return [
        column
        for column in columns
        if not column.dispensable or any(column.show(row, report.baseline) for row in report.rows)
    ]


def _parts(report: Report, columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Return the columns of one table that fits, and of the tables that continue it."""
    shown = list(columns)
    while _width(report, shown) > width and any(column.dispensable for column in shown):
        shown.remove(max(shown, key=lambda column: column.dispensable))
    rest = [column for column in columns if column not in shown and column.dispensable <= MAX_CONTINUED]
    if not rest:
        return [shown]
    first = replace(rest[0], dispensable=0)  # however narrow the terminal is
    return [shown, *_parts(report, [columns[0], first, *rest[1:]], width)]


def _width(report: Report, columns: Sequence[Column]) -> int:
    return max(map(len, _table(report, columns, "simple").splitlines()))


def _dropped(report: Report, titles: Sequence[str], width: int) -> list[str]:
    """Return lines that list the columns without room, and an empty line; nothing if all columns fit."""
    if not titles:
        return []
    where = "on a wider terminal" if report.directory is None else "in report.html"
    columns = "column" if len(titles) == 1 else "columns"
    return [*textwrap.wrap(f"{len(titles)} more {columns} {where}: {', '.join(titles)}", width), ""]


def _reused(report: Report) -> list[str]:
    """Return the explanation of the mark and an empty line if any row has the mark."""
    return [REUSED_MEANS, ""] if any(row.get("reused") for row in report.rows) else []


def _verdicts(report: Report, width: int) -> Iterator[str]:
    """Yield the verdicts in lines that fit; nothing for a report without stages."""
    if len(report.rows) > 1:
        yield from textwrap.wrap(verdict(report), width)
        for line in stage_verdicts(report):
            yield from textwrap.wrap(line, width, subsequent_indent="  ")


def _numbers(report: Report, width: int) -> Iterator[str]:
    """Yield the described numbers of plugins after an empty line, in lines that fit."""
    for number, line in enumerate(described_lines(report)):
        yield from [] if number else [""]
        yield from textwrap.wrap(printable(line), width, subsequent_indent="  ")


def _lines(report: Report, columns: Sequence[Column]) -> list[list[str]]:
    return [
        [str(number), *(column.show(row, report.baseline) for column in columns)]
        for number, row in enumerate(report.rows)
    ]


def _table(report: Report, columns: Sequence[Column], style: str) -> str:
    align = ("right", "left", *["right"] * (len(columns) - 1))
    headers = ["#", *(column.title for column in columns)]
    return tabulate(_lines(report, columns), headers=headers, tablefmt=style, colalign=align, disable_numparse=True)


def _identity() -> list[Column]:
    return [Column("stage", lambda row, _: printable(row.stage) + (f" {REUSED}" if row.get("reused") else ""))]


def _unknown(report: Report) -> list[Column]:
    """Return a plain column for each number whose metric is not installed; a terminal drops these first."""
    return [
        Column(printable(name), partial(_plain, name), UNKNOWN_DISPENSABLE, "the metric is not installed")
        for name in unknown_numbers(report)
    ]


def _plain(name: str, row: Row, _: Row) -> str:
    return plain(row.number(name))


def _notes(report: Report, style: str, max_rows: int | None = None) -> Iterator[str]:
    for number, row in enumerate(report.rows):
        for name, note in row.notes.items():
            text = ": ".join(filter(None, [f"{number} {row.stage}", name, note.text]))
            yield printable(text) + _note_table(note, style, max_rows)


def _note_table(note: Note, style: str, max_rows: int | None) -> str:
    if not note.table:
        return ""
    lines = note.table if max_rows is None else merge_equal_reasons(note.table)
    rows = [{key: _cell(value) for key, value in row.items()} for row in lines[:max_rows]]
    more = len(lines) - len(rows)
    table = printable(
        tabulate(rows, headers="keys", tablefmt=style, floatfmt=".3f", disable_numparse=_text_columns(lines))
    )
    return f"\n\n{table}\n" + (f"… and {more} more in report.md\n" if more else "")


def _text_columns(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the columns that contain text; a layer of a `Sequential` is named like a number, such as 3.0."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [column for column, key in enumerate(keys) if any(isinstance(row.get(key), str) for row in rows)]


def _cell(value: Any) -> Any:
    """Return an integer that does not fit into a float as text, which tabulate cannot format otherwise."""
    return str(value) if isinstance(value, int) and abs(value) > MAX_INTEGER else value
