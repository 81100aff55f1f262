"""Rows of a note's table that differ in nothing but names and numbers: many equal reasons become one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

REASON = "reason"  # the column whose texts are compared
MIN_EQUAL_ROWS = 4


def merge_equal_reasons(table: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the table with one row for at least `MIN_EQUAL_ROWS` rows of the same reason, at the place of the first.

    The first column counts the rows and names the first and the last; other columns have their values or their range.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for place, row in enumerate(table):
        reason = row.get(REASON)
        groups.setdefault(reason if isinstance(reason, str) and reason else place, []).append(row)
    return [row for rows in groups.values() for row in _merged(rows)]


def _merged(rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    if len(rows) < MIN_EQUAL_ROWS:
        yield from rows
        return
    first, *others = rows[0]
    names = f"{len(rows)} {first}s: {rows[0][first]} … {rows[-1].get(first)}"
    yield {first: names, **{column: _range([row.get(column) for row in rows]) for column in others}}


def _range(values: Sequence[Any]) -> Any:
    """Return the common value, the range of numbers, or None."""
    if all(value == values[0] for value in values):
        return values[0]
    numbers = [value for value in values if isinstance(value, (int, float))]
    return f"{min(numbers):,} … {max(numbers):,}" if len(numbers) == len(values) else None
