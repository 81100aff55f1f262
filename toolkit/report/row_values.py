"""How a row's metrics are read and shown: which have a unit, and where the interval of each one is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from toolkit.report import Report
from toolkit.report.numbers import MINUS, percent, plus_minus, printable
from toolkit.rows import Row

Interval = tuple[float, float]


class Quality(NamedTuple):
    """How a metric of quality is shown: `scale` makes the numbers of its axis, `unit` names their differences."""

    name: str
    title: str
    axis: str
    scale: float
    unit: str
    text: Callable[[float], str]

    @property
    def form(self) -> str:
        """The format of its intervals and changes."""
        return ".2f" if self.scale != 1 else ".3g"

    def change(self, value: float, interval: Interval | None) -> str:
        """A change with its interval: `−0.04 ± 0.11`, in units of the axis."""
        scaled = interval and (interval[0] * self.scale, interval[1] * self.scale)
        return plus_minus(value * self.scale, scaled, self.form)


def quality_metric(name: str) -> Quality:
    """Accuracy is shown in percent; of any other metric nothing but its name is known."""
    if name == "accuracy":
        return Quality("accuracy", "Accuracy", "accuracy in %", 100.0, "points", percent)
    shown = printable(name)
    return Quality(shown, shown, shown, 1.0, "", lambda value: f"{value:.4g}".replace("-", MINUS))


def value_of(row: Row, name: str, key: str = "") -> float | None:
    """A number of a row, of a dictionary by batch size with `key`; None where it was not measured."""
    value = row.get(name)
    if key and isinstance(value, dict):
        value = value.get(key)
    return value if isinstance(value, (int, float)) else None


def interval_of(row: Row, name: str, key: str = "") -> Interval | None:
    """The interval of a number: `<name>_interval`, of `latency` the quartiles; None where there is none."""
    found: Any = row.get("latency_spread_ms" if name == "latency" else f"{name}_interval")
    if key and isinstance(found, dict):
        found = found.get(key)
    return (found[0], found[1]) if isinstance(found, (list, tuple)) and len(found) == 2 else None


def shown_qualities(report: Report) -> list[str]:
    """The measured metrics of quality, the foremost first; the loss only where there is no other."""
    measured = [name for name in report.quality if any(value_of(row, name) is not None for row in report.rows)]
    return [name for name in measured if name != "loss"] or measured
