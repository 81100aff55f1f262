"""The positions of the nonzero entries of a tensor: one bit per entry, coded by how full its row and column are.

Whole columns of a pruned weight are often nearly empty, such as those of a picture's margin. Each row and each column
has a level, the sum of an entry's two levels is its class, and every class has its own probability.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.model_files.packed.streams import LEVELS, SCALE, Reader, Writer

Bits = NDArray[np.bool_]
Levels = NDArray[np.uint8]
CLASSES = 2 * LEVELS


class Plan(NamedTuple):
    """The levels of rows and columns, None where all entries have the same chance, and the size in bytes."""

    rows: Levels | None
    columns: Levels | None
    size_bytes: float


def plan(bits: Bits) -> Plan:
    """Return the shorter plan for bits (rows, columns): the same chance for all entries, or levels."""
    single = Plan(None, None, 2 + _cost(bits.reshape(-1), _chances_by_class(bits, _classes(bits.shape, None, None))))
    if min(bits.shape) < 2:
        return single
    rows, columns = _levels(bits)
    classes = _classes(bits.shape, rows, columns)
    used = len(np.unique(classes))
    side = (len(rows) + 1) // 2 + (len(columns) + 1) // 2 + 2 * used
    levelled = Plan(rows, columns, side + _cost(bits.reshape(-1), _chances_by_class(bits, classes)))
    return min(single, levelled, key=lambda plan: plan.size_bytes)


def write_head(writer: Writer, bits: Bits, plan: Plan) -> NDArray[np.uint16]:
    """Write what the chances are computed from, and return one chance for each entry."""
    if plan.rows is not None and plan.columns is not None:
        writer.nibbles(plan.rows)
        writer.nibbles(plan.columns)
    classes = _classes(bits.shape, plan.rows, plan.columns)
    chances = _chances_by_class(bits, classes)
    used = np.unique(classes)
    by_class = np.zeros(CLASSES, dtype="<u2")
    by_class[classes] = chances
    writer.raw(by_class[used].tobytes())
    return chances


def read_head(reader: Reader, shape: tuple[int, int], levelled: bool) -> NDArray[np.uint16]:
    """Return the chances that `write_head` wrote."""
    rows = reader.nibbles(shape[0]) if levelled else None
    columns = reader.nibbles(shape[1]) if levelled else None
    classes = _classes(shape, rows, columns)
    used = np.unique(classes)
    by_class = np.zeros(CLASSES, dtype=np.uint16)
    by_class[used] = np.frombuffer(reader.raw(2 * len(used)), dtype="<u2")
    return np.maximum(by_class, 1)[classes]


def _classes(shape: tuple[int, ...], rows: Levels | None, columns: Levels | None) -> Levels:
    if rows is None or columns is None:
        return np.zeros(shape[0] * shape[1], dtype=np.uint8)
    return (rows[:, None] + columns[None, :]).reshape(-1)


def _levels(bits: Bits) -> tuple[Levels, Levels]:
    """Return log-odds of rows and columns in steps of one size, so that sums approximate the log-odds of entries."""
    odds = [_log_odds(bits, axis) for axis in (1, 0)]
    step = max(float(np.ptp(each)) for each in odds) / (LEVELS - 1) or 1.0
    rows, columns = (np.round((each - each.min()) / step).astype(np.uint8) for each in odds)
    return rows, columns


def _log_odds(bits: Bits, axis: int) -> NDArray[np.float64]:
    share = (bits.sum(axis=axis) + 0.5) / (bits.shape[axis] + 1)
    odds: NDArray[np.float64] = np.log(share / (1 - share))
    return odds


def _chances_by_class(bits: Bits, classes: Levels) -> NDArray[np.uint16]:
    entries = np.bincount(classes, minlength=CLASSES)
    ones = np.bincount(classes, weights=bits.reshape(-1), minlength=CLASSES)
    share = np.round(SCALE * ones / np.maximum(entries, 1))
    chances: NDArray[np.uint16] = np.clip(share, 1, SCALE - 1).astype(np.uint16)[classes]
    return chances


def _cost(bits: Bits, chances: NDArray[np.uint16]) -> float:
    share = chances / SCALE
    return float(-np.log2(np.where(bits, share, 1 - share)).sum()) / 8
