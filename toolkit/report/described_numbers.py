"""The numbers of plugins as quantities: with the label, the unit and the explanation that the plugin declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from toolkit.metrics.support.metric import Quantity
from toolkit.number_text import bytes_text, percent, plain, printable
from toolkit.report import Report
from toolkit.rows import Number, Row

_AGAIN = re.compile(r"^with\.\d+\.")  # of a technique that a stage uses twice
FORMATS: dict[str, Callable[[float], str]] = {"bytes": bytes_text, "fraction": percent}


def plugin_keys(row: Row) -> Iterator[str]:
    """Yield the keys of the numbers that plugins measured; they contain a dot."""
    yield from (key for key, value in row.values.items() if "." in key and isinstance(value, (int, float)))


def plugin_and_name(key: str) -> tuple[str, str]:
    """Return the plugin that measured a number, and its name for it."""
    plugin, _, name = _AGAIN.sub("", key).partition(".")
    return plugin, name


def quantity_of(report: Report, key: str) -> Quantity:
    """Return how to show a plugin's number; without a description its title is empty."""
    number = report.numbers.get(key)
    if number is None:
        return Quantity(key, bytes_text if key.endswith("_bytes") else plain)
    return Quantity(key, _text_of(number), number.explanation, number.unit, number.better, number.label)


def described_lines(report: Report) -> Iterator[str]:
    """Yield a line for each row with its described numbers: `1 prune: zeros 80.00 %`."""
    for number, row in enumerate(report.rows):
        quantities = [quantity_of(report, key) for key in plugin_keys(row) if key in report.numbers]
        if quantities:
            numbers = ", ".join(f"{quantity.title} {quantity.text(row[quantity.key])}" for quantity in quantities)
            yield f"{number} {row.stage}: {numbers}"


def _text_of(number: Number) -> Callable[[float], str]:
    def with_unit(value: float) -> str:
        return " ".join(filter(None, [plain(value), printable(number.unit)]))

    return FORMATS.get(number.unit, with_unit)
