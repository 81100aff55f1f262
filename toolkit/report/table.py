"""A report as a table: for the terminal, as wide as it is, for Markdown, and for a page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from tabulate import tabulate

from toolkit.report import Report
from toolkit.report.numbers import bytes_text, count_text, half_width, percent, printable
from toolkit.report.row_values import interval_of, quality_metric, shown_qualities, value_of
from toolkit.report.verdicts import stage_verdicts, verdict
from toolkit.rows import Note, Row

REUSED = "↺"
REUSED_MEANS = f"{REUSED} computed by an earlier run: model and numbers are kept, the times are of then."
LONGEST_NOTE = 8  # rows of a note's table on a terminal
WHERE = ("processor", "threads", "device", "torch")


class Column(NamedTuple):
    """A column: its title, how it shows a row beside the baseline, and how soon it is left out (0 never)."""

    title: str
    show: Callable[[Row, Row], str]
    dispensable: int = 0


def as_text(report: Report, width: int = 80) -> str:
    """The table, the verdicts and the notes for a terminal.

    Columns that do not fit are left out, the least important ones first.
    """
    columns = columns_of(report)
    table = _table(report, columns, "simple")
    while max(map(len, table.splitlines())) > width and any(column.dispensable for column in columns):
        columns.remove(max(columns, key=lambda column: column.dispensable))
        table = _table(report, columns, "simple")
    notes = [f"\n{line}" for line in _notes(report, "simple", LONGEST_NOTE)]
    return "\n".join([table, "", *_reused(report), *_said(report, width), *notes])


def as_markdown(report: Report) -> str:
    """The verdicts, the table with all intervals, and the notes, as Markdown."""
    where = ", ".join(f"{key} {report.environment[key]}" for key in WHERE if key in report.environment)
    notes = "".join(f"\n{line}\n" for line in _notes(report, "github"))
    said = "".join(f"- {line}\n" for line in stage_verdicts(report))
    table = _table(report, columns_of(report, detailed=True), "github")
    reused = "".join(f"{line}\n" for line in _reused(report))
    return f"# {report.name}\n\n{verdict(report)}\n\n{table}\n\n{reused}{said}\nMeasured on: {where}.\n{notes}"


def cells(report: Report) -> tuple[list[str], list[list[str]]]:
    """The titles and the lines of the whole table, with all intervals."""
    columns = columns_of(report, detailed=True)
    return ["#", *(column.title for column in columns)], _lines(report, columns)


def columns_of(report: Report, detailed: bool = False) -> list[Column]:
    """The columns that any row has something for, those that matter first; `detailed` adds what is too wide for 80."""
    columns = [*_identity(), *_qualities(report), *SIZE, *_latencies(report, detailed), *REST]
    return [
        column
        for column in columns
        if not column.dispensable or any(column.show(row, report.baseline) for row in report.rows)
    ]


def _reused(report: Report) -> list[str]:
    """What the mark means and an empty line, if there is a mark."""
    return [REUSED_MEANS, ""] if any(row.get("reused") for row in report.rows) else []


def _said(report: Report, width: int) -> Iterator[str]:
    """The verdicts in lines that fit; nothing of a report without stages."""
    if len(report.rows) > 1:
        yield from textwrap.wrap(verdict(report), width)
        for line in stage_verdicts(report):
            yield from textwrap.wrap(line, width, subsequent_indent="  ")


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


def _qualities(report: Report) -> Iterator[Column]:
    for place, metric in enumerate(shown_qualities(report)):
        first = not place
        yield Column(quality_metric(metric).name, partial(_quality, metric), 0 if first else 50 + place)
        yield Column("change" if first else f"{printable(metric)} change", partial(_change, metric), 60 + place)


def _quality(metric: str, row: Row, _: Row) -> str:
    value, shown = value_of(row, metric), quality_metric(metric)
    if value is None:
        return ""
    arm = half_width(value, interval_of(row, metric))
    return shown.text(value) + ("" if arm is None else f" ±{arm * shown.scale:{shown.form}}")


def _change(metric: str, row: Row, _: Row) -> str:
    value, shown = value_of(row, f"{metric}_change"), quality_metric(metric)
    return "" if value is None else shown.change(value, interval_of(row, f"{metric}_change")).replace("± ", "±")


def _latencies(report: Report, detailed: bool) -> Iterator[Column]:
    for place, size in enumerate(report.baseline.get("latency_ms") or {}):
        yield Column(f"ms @{printable(size)}", partial(_latency, size, detailed), 1 + place)


def _latency(size: str, detailed: bool, row: Row, _: Row) -> str:
    time, ratio = value_of(row, "latency_ms", size), value_of(row, "latency_ratio", size)
    arm = None if ratio is None else half_width(ratio, interval_of(row, "latency_ratio", size))
    digits = 3 if detailed and arm else 2
    parts = ["" if time is None else f"{time:.3g}", "" if ratio is None else f"×{ratio:.{digits}f}"]
    return " ".join(filter(None, [*parts, f"±{arm:.3f}" if detailed and arm else ""]))


def _size(row: Row, _: Row) -> str:
    size = value_of(row, "size_bytes")
    return "" if size is None else bytes_text(size)


def _smaller(row: Row, baseline: Row) -> str:
    size, before = value_of(row, "size_bytes"), value_of(baseline, "size_bytes")
    return "" if not size or not before else f"{before / size:.1f}×"


def _share(name: str, digits: int, row: Row, _: Row) -> str:
    return percent(value_of(row, name), digits)


def _count(name: str, row: Row, _: Row) -> str:
    count = value_of(row, name)
    return "" if count is None else count_text(count)


def _memory(row: Row, _: Row) -> str:
    memory = value_of(row, "peak_memory_bytes")
    return "" if memory is None else bytes_text(memory)


def _notes(report: Report, style: str, longest: int | None = None) -> Iterator[str]:
    for number, row in enumerate(report.rows):
        for name, note in row.notes.items():
            text = ": ".join(filter(None, [f"{number} {row.stage}", name, note.text]))
            yield printable(text) + _note_table(note, style, longest)


def _note_table(note: Note, style: str, longest: int | None) -> str:
    if not note.table:
        return ""
    rows = [dict(row) for row in note.table[:longest]]
    more = len(note.table) - len(rows)
    table = printable(tabulate(rows, headers="keys", tablefmt=style, floatfmt=".3f"))
    return f"\n\n{table}\n" + (f"… and {more} more in report.md\n" if more else "")


SIZE = (Column("size", _size), Column("smaller", _smaller))
REST = (
    Column("agree", partial(_share, "agreement", 1), 95),
    Column("memory", _memory, 96),
    Column("zeros", partial(_share, "sparsity", 0), 97),
    Column("nonzero", partial(_count, "nonzero"), 98),
    Column("MACs", partial(_count, "macs"), 99),
)
