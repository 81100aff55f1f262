"""Checks of the numbers in a report against what the metrics say of them; the schema checks all other values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from toolkit.metrics import all_quantities
from toolkit.metrics.support.metric import Bounds, Quantity
from toolkit.report.validation_series import PREFIX

DURATIONS = ("duration_s", "measuring_s")


def check_values(content: Any) -> None:
    """Check the values of known metrics in the content of `report.json`.

    Raises:
        ValueError: a value is not a number, not an interval, or out of bounds; the message begins with its place.
    """
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        return
    quantities = _quantities(content.get("quality"))
    intervals = {quantity.interval for quantity in quantities.values()}
    for number, row in enumerate(content["rows"]):
        for key, value in row.items() if isinstance(row, dict) else ():
            if key in quantities:
                _check_quantity(value, quantities[key], f"rows.{number}.{key}")
            elif key in intervals:
                _check_interval(value, f"rows.{number}.{key}")
            elif key == "training_loss" or (key.startswith(PREFIX) and "." not in key):
                _check_losses(value, f"rows.{number}.{key}")


def _quantities(quality: Any) -> dict[str, Quantity]:
    """Return all quantities by key, with plain ones for durations, metrics of quality, and their changes."""
    names = quality if isinstance(quality, dict) else ()
    keys = [*DURATIONS, *(key for name in names for key in (name, f"{name}_change"))]
    return {**{key: Quantity(key) for key in keys}, **all_quantities()}


def _check_quantity(value: Any, quantity: Quantity, place: str) -> None:
    if not quantity.by_batch_size:
        _check_number(value, quantity.bounds, place)
    elif value is not None and not isinstance(value, dict):
        raise ValueError(f"{place}: must be a table of numbers by batch size, found {value!r:.40}")
    else:
        for size, number in (value or {}).items():
            _check_number(number, quantity.bounds, f"{place}.{size}")


def _check_number(value: Any, bounds: Bounds, place: str) -> None:
    if value is None:
        return
    if not _is_number(value):
        raise ValueError(f"{place}: must be a number, found {value!r:.40}")
    for problem in _out_of_bounds(value, bounds):
        raise ValueError(f"{place}: must be {problem}, found {value:g}")


def _out_of_bounds(value: float, bounds: Bounds) -> Iterator[str]:
    if bounds.minimum is not None and (value < bounds.minimum or (bounds.exclusive and value == bounds.minimum)):
        yield f"{'greater than' if bounds.exclusive else 'at least'} {bounds.minimum:g}"
    if bounds.maximum is not None and value > bounds.maximum:
        yield f"at most {bounds.maximum:g}"


def _check_interval(value: Any, place: str) -> None:
    pairs = {f"{place}.{size}": pair for size, pair in value.items()} if isinstance(value, dict) else {place: value}
    for where, pair in pairs.items():
        if pair is not None and not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))):
            raise ValueError(f"{where}: must be two numbers, found {pair!r:.40}")


def _check_losses(value: Any, place: str) -> None:
    if value is not None and not (isinstance(value, list) and all(loss is None or _is_number(loss) for loss in value)):
        raise ValueError(f"{place}: must be a list of numbers, found {value!r:.40}")


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number that fits into a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
