"""A report as a table: for the terminal, as wide as it is, and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from tabulate import tabulate

from toolkit.report import Note, Report, Row

LONGEST_NOTE = 8  # rows of a note's table on a terminal


class Column(NamedTuple):
    """A column: its title, how it shows a row beside the baseline, and how soon it is left out (0 never)."""

    title: str
    show: Callable[[Row, Row], str]
    dispensable: int = 0


def as_text(report: Report, width: int = 80) -> str:
    """The table and the notes for a terminal: columns that do not fit are left out, the least important ones first."""
    columns = _columns(report)
    table = _table(report, columns, "simple")
    while max(map(len, table.splitlines())) > width and any(column.dispensable for column in columns):
        columns.remove(max(columns, key=lambda column: column.dispensable))
        table = _table(report, columns, "simple")
    return table + "\n" + "".join(f"\n{line}" for line in _notes(report, "simple", LONGEST_NOTE))


def as_markdown(report: Report) -> str:
    """The table and the notes, as Markdown."""
    where = ", ".join(f"{key} {report.environment[key]}" for key in ("processor", "threads", "device", "torch"))
    notes = "".join(f"\n{line}\n" for line in _notes(report, "github"))
    return f"# {report.name}\n\n{_table(report, _columns(report), 'github')}\n\nMeasured on: {where}.\n{notes}"


def _table(report: Report, columns: Sequence[Column], style: str) -> str:
    lines = [
        [str(number), *(column.show(row, report.baseline) for column in columns)]
        for number, row in enumerate(report.rows)
    ]
    align = ("right", "left", *["right"] * (len(columns) - 1))
    headers = ["#", *(column.title for column in columns)]
    return tabulate(lines, headers=headers, tablefmt=style, colalign=align, disable_numparse=True)


def _columns(report: Report) -> list[Column]:
    timed = report.baseline.get("latency_ms", {})
    latencies = [Column(f"ms @{size}", partial(_latency, size), 1 + place) for place, size in enumerate(timed)]
    return [*FIRST, *latencies, *LAST]


def _latency(batch_size: str, row: Row, _: Row) -> str:
    return f"{row['latency_ms'][batch_size]:.3g} ×{row['latency_ratio'][batch_size]:.2f}"


def _notes(report: Report, style: str, longest: int | None = None) -> Iterator[str]:
    for number, row in enumerate(report.rows):
        for name, note in row.notes.items():
            text = ": ".join(filter(None, [f"{number} {row.stage}", name, note.text]))
            yield text + _note_table(note, style, longest)


def _note_table(note: Note, style: str, longest: int | None) -> str:
    if not note.table:
        return ""
    rows = [dict(row) for row in note.table[:longest]]
    more = len(note.table) - len(rows)
    table = tabulate(rows, headers="keys", tablefmt=style, floatfmt=".3f")
    return f"\n\n{table}\n" + (f"… and {more} more in report.md\n" if more else "")


def bytes_text(size: float) -> str:
    """A size with a unit of powers of 1000: `1.73 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def count_text(count: float) -> str:
    """A number of things, shortened: `431 k`."""
    return bytes_text(count).replace("B", "").rstrip()


def _percent(value: Any) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


FIRST = (
    Column("stage", lambda row, _: row.stage),
    Column("accuracy", lambda row, _: _percent(row.get("accuracy"))),
    Column("size", lambda row, _: bytes_text(row["size_bytes"])),
    Column("smaller", lambda row, baseline: f"{baseline['size_bytes'] / row['size_bytes']:.1f}×"),
)
LAST = (
    Column("zeros", lambda row, _: f"{100 * row['sparsity']:.0f} %", 97),
    Column("nonzero", lambda row, _: count_text(row["nonzero"]), 98),
    Column("MACs", lambda row, _: count_text(row["macs"]), 99),
)
