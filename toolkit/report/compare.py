"""Two runs side by side: which settings differ, and which numbers moved further than their intervals allow."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from toolkit.errors import InputError
from toolkit.metrics import all_quantities
from toolkit.metrics.support.metric import Quantity
from toolkit.metrics.support.quality_format import quality_format
from toolkit.number_text import half_width, printable
from toolkit.recipe.differences import settings_of
from toolkit.report import Report
from toolkit.report.reader import read_report
from toolkit.rows import Interval, Row
from toolkit.storage.run_directory import RECIPE

# `moved`: beyond the intervals, or a count that is another; `unknown`: another number, and nobody knows its noise.
Outcome = Literal["moved", "within", "unknown"]
ABSENT = "–"


class Setting(NamedTuple):
    """A place in two recipes whose values differ."""

    place: str
    first: str
    second: str


class Number(NamedTuple):
    """A number of a row in two runs."""

    row: str
    name: str
    first: str
    second: str
    outcome: Outcome


@dataclass(frozen=True)
class Comparison:
    """Two runs, the settings that differ, all numbers that both have, and the rows that only one has."""

    first: Path
    second: Path
    settings: list[Setting]
    numbers: list[Number]
    alone: list[str]

    def of(self, outcome: Outcome) -> list[Number]:
        """The numbers with this outcome."""
        return [number for number in self.numbers if number.outcome == outcome]


def compare(first: Path, second: Path) -> Comparison:
    """Compare two run directories; an `InputError` names the one that is not, or is damaged."""
    reports = read_report(first), read_report(second)
    pairs, alone = _paired(*reports)
    numbers = [number for label, one, other in pairs for number in _numbers(label, one, other, reports)]
    return Comparison(first, second, _settings(first, second), numbers, alone)


def moved(first: float, second: float, one: Interval | None, other: Interval | None) -> Outcome:
    """Whether two independent measurements differ by more than their 95 % intervals together."""
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
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def _paired(first: Report, second: Report) -> tuple[list[tuple[str, Row, Row]], list[str]]:
    """Rows of the same name, or else of the same number if neither has another partner; the names of the rest."""
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
    """Yield the numbers that both rows have: of quality, of the other metrics, and of techniques."""
    qualities = list(dict.fromkeys(name for report in reports for name in report.measured_qualities))
    quantities = all_quantities()
    for name in qualities:
        quantity = Quantity(name, quality_format(name).text, between_runs=0.0)
        yield from _compared(label, one, other, quantities.get(name, quantity))
    of_techniques = {name: Quantity(name, between_runs=0.0) for name in one.values if "." in name}
    for name, quantity in {**quantities, **of_techniques}.items():
        if name not in qualities:
            yield from _compared(label, one, other, quantity)


def _compared(label: str, one: Row, other: Row, quantity: Quantity) -> Iterator[Number]:
    sizes = list(one.get(quantity.key) or {}) if quantity.by_batch_size else [""]
    for size in sizes:
        first, second = one.number(quantity.key, size), other.number(quantity.key, size)
        if first is not None and second is not None:
            intervals = one.interval(quantity.interval, size), other.interval(quantity.interval, size)
            name = f"{printable(quantity.label)} @{size}" if size else printable(quantity.label)
            outcome = _outcome(first, second, intervals, quantity.between_runs)
            yield Number(label, name, quantity.text(first), quantity.text(second), outcome)


def _outcome(
    first: float, second: float, intervals: tuple[Interval | None, Interval | None], between_runs: float | None
) -> Outcome:
    """Return whether a number moved: a count as soon as it differs, a measurement beyond its intervals."""
    if between_runs is None:
        return "within" if first == second else "moved"
    if abs(first - second) <= between_runs * min(first, second):
        return "within"
    return moved(first, second, *intervals)
