"""Two runs side by side: which settings differ, and which numbers moved further than their intervals allow."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from toolkit.errors import InputError
from toolkit.recipe.differences import settings_of
from toolkit.report import Report
from toolkit.report.numbers import bytes_text, half_width, milliseconds, plain, printable
from toolkit.report.reader import read_report
from toolkit.report.row_values import Interval, interval_of, quality_metric, shown_qualities, value_of
from toolkit.rows import Row
from toolkit.storage.run_directory import RECIPE

# `moved`: beyond the intervals, or a count that is another; `unknown`: another number, and nobody knows its noise.
Outcome = Literal["moved", "within", "unknown"]
# What the interval of one run cannot know: two processes place the same weights differently in memory, and a machine is
# busier at one time than at another. By `tests/benchmarks/latency.py` ratios lie up to 7 % apart, and between two whole
# runs up to 9 %; times, which nothing cancels out of, up to 22 %.
BETWEEN_RUNS = {"latency_ms": 0.25, "latency_ratio": 0.1, "peak_memory_bytes": 0.1}
COUNTS = ("size_bytes", "parameters", "nonzero", "macs", "samples")
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
    for metric in dict.fromkeys(name for report in reports for name in shown_qualities(report)):
        yield from _measured(label, one, other, metric, quality_metric(metric).text)
    for name in COUNTS:
        first, second = value_of(one, name), value_of(other, name)
        if first is not None and second is not None:
            text = bytes_text if name.endswith("_bytes") else plain
            outcome: Outcome = "within" if first == second else "moved"
            yield Number(label, name.removesuffix("_bytes"), text(first), text(second), outcome)
    for size in one.get("latency_ms") or {}:
        yield from _measured(label, one, other, "latency_ms", milliseconds, size)
        yield from _measured(label, one, other, "latency_ratio", lambda ratio: f"×{ratio:.3f}", size)
    for name in ("agreement", "peak_memory_bytes", *(name for name in one.values if "." in name)):
        yield from _measured(label, one, other, name, bytes_text if name.endswith("_bytes") else plain)


def _measured(label: str, one: Row, other: Row, name: str, text: Any, size: str = "") -> Iterator[Number]:
    first, second = value_of(one, name, size), value_of(other, name, size)
    if first is not None and second is not None:
        around = "latency" if name == "latency_ms" else name
        outcome = moved(first, second, interval_of(one, around, size), interval_of(other, around, size))
        if abs(first - second) <= BETWEEN_RUNS.get(name, 0.0) * min(first, second):
            outcome = "within"
        yield Number(
            label, f"{printable(name)} @{size}" if size else printable(name), text(first), text(second), outcome
        )
