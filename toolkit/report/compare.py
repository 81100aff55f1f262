"""Comparison of two runs: the settings that differ, and the numbers that differ by more than their intervals."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from toolkit.errors import InputError
from toolkit.metrics import all_quantities
from toolkit.metrics.support.metric import EXACT, Comparison, Quantity
from toolkit.metrics.support.quality_format import quality_format
from toolkit.number_text import half_width, printable
from toolkit.recipe.differences import settings_of
from toolkit.report import Report
from toolkit.report.described_numbers import quantity_of
from toolkit.report.reader import read_report
from toolkit.report.unknown_metrics import unknown_numbers
from toolkit.rows import Interval, Row
from toolkit.storage.run_directory import RECIPE

# `moved`: beyond the intervals, or an unequal exact number; `unknown`: unequal, but at least one run has no interval;
# `alone`: only one run has the number.
Outcome = Literal["moved", "within", "unknown", "alone"]
ABSENT = "–"


class Setting(NamedTuple):
    """A place in two recipes with different values."""

    place: str
    first: str
    second: str


class Number(NamedTuple):
    """A number of a row in two runs; `ABSENT` for one that has it not."""

    row: str
    name: str
    first: str
    second: str
    outcome: Outcome


@dataclass(frozen=True)
class ComparedRuns:
    """Two runs: the settings that differ, the numbers, and the rows that only one of them has."""

    first: Path
    second: Path
    settings: list[Setting]
    numbers: list[Number]
    alone: list[str]

    def of(self, outcome: Outcome) -> list[Number]:
        """Return the numbers with an outcome."""
        return [number for number in self.numbers if number.outcome == outcome]


def compare(first: Path, second: Path) -> ComparedRuns:
    """Compare two run directories.

    Raises:
        InputError: a directory is not a run directory, or its report or recipe is damaged.
    """
    reports = read_report(first), read_report(second)
    pairs, alone = _paired(*reports)
    numbers = [number for label, one, other in pairs for number in _numbers(label, one, other, reports)]
    return ComparedRuns(first, second, _settings(first, second), numbers, alone)


def moved(first: float, second: float, one: Interval | None, other: Interval | None) -> Outcome:
    """Return whether two independent measurements differ by more than their combined 95 % intervals."""
    if first == second:
        return "within"
    arms = half_width(first, one), half_width(second, other)
    if arms[0] is None or arms[1] is None:
        return "unknown"
    return "moved" if abs(first - second) > math.hypot(arms[0], arms[1]) else "within"


def _settings(first: Path, second: Path) -> list[Setting]:
    one, other = (_printable(settings_of(_recipe(folder))) for folder in (first, second))
    return [
        Setting(place, one.get(place, ABSENT), other.get(place, ABSENT))
        for place in dict.fromkeys([*one, *other])
        if one.get(place) != other.get(place)
    ]


def _printable(settings: Iterator[tuple[str, str]]) -> dict[str, str]:
    return {place: printable(value) for place, value in settings}


def _recipe(folder: Path) -> dict[str, Any]:
    path = folder / RECIPE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def _paired(first: Report, second: Report) -> tuple[list[tuple[str, Row, Row]], list[str]]:
    """Return pairs of rows with the same name, or with the same number if no name matches, and the remaining names."""
    named = {row.stage: row for row in second.rows}
    partners = {number: named.pop(row.stage) for number, row in enumerate(first.rows) if row.stage in named}
    for number, row in enumerate(second.rows[: len(first.rows)]):
        if number not in partners and row.stage in named:
            partners[number] = named.pop(row.stage)
    pairs = []
    for number, row in enumerate(first.rows):
        if number in partners:
            stages = dict.fromkeys([row.stage, partners[number].stage])
            pairs.append((printable(f"{number} {' / '.join(stages)}"), row, partners[number]))
    alone = [row.stage for number, row in enumerate(first.rows) if number not in partners]
    return pairs, [printable(stage) for stage in (*alone, *named)]


def _numbers(label: str, one: Row, other: Row, reports: tuple[Report, Report]) -> Iterator[Number]:
    """Yield the numbers of two rows: quality, then counts, then other metrics, then those of techniques."""
    qualities = dict.fromkeys(name for report in reports for name in report.measured_qualities)
    quantities = {name: Quantity(name, quality_format(name).text) for name in qualities}
    for quantity in sorted(all_quantities().values(), key=_order):
        quantities.setdefault(quantity.key, quantity)
    others = [*unknown_numbers(reports[0]), *(name for name in {**one.values, **other.values} if "." in name)]
    for name in others:
        describing = next((report for report in reports if name in report.numbers), reports[0])
        quantities.setdefault(name, quantity_of(describing, name))
    for quantity in quantities.values():
        if quantity.comparison is not None:
            yield from _compared(label, one, other, quantity, quantity.comparison)


def _order(quantity: Quantity) -> tuple[bool, bool]:
    return quantity.comparison != EXACT, not quantity.by_batch_size


def _compared(label: str, one: Row, other: Row, quantity: Quantity, comparison: Comparison) -> Iterator[Number]:
    of_sizes = {**(one.get(quantity.key) or {}), **(other.get(quantity.key) or {})} if quantity.by_batch_size else [""]
    for size in of_sizes:
        first, second = one.number(quantity.key, size), other.number(quantity.key, size)
        if first is None and second is None:
            continue
        intervals = one.interval(quantity.interval, size), other.interval(quantity.interval, size)
        name = f"{printable(quantity.label)} @{size}" if size else printable(quantity.label)
        outcome = _outcome(first, second, intervals, comparison)
        yield Number(label, name, *_texts(first, second, quantity), outcome)


def _texts(first: float | None, second: float | None, quantity: Quantity) -> tuple[str, str]:
    """Return two numbers in the format of their metric, or with all digits if that hides the difference."""
    one, other = (ABSENT if number is None else quantity.text(number) for number in (first, second))
    return (one, other) if one != other or first == second else (str(first), str(second))


def _outcome(
    first: float | None,
    second: float | None,
    intervals: tuple[Interval | None, Interval | None],
    comparison: Comparison,
) -> Outcome:
    if first is None or second is None:
        return "alone"
    if comparison.exact:
        return "within" if first == second else "moved"
    if abs(first - second) <= comparison.between_runs * min(first, second):
        return "within"
    return moved(first, second, *intervals)
