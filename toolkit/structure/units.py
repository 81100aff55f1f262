"""Units: channels that can only be removed together, and those that have to stay, with the reason.

Every output channel of a layer begins as a unit of its own. What the network does with channels ties them: the two
terms of a residual sum, the channels of one group of a convolution, the input and output of a depthwise one.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.int64]


class Units:
    """A union-find structure over channels; the reason to stay belongs to whatever is tied."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> Numbers:
        """Return the numbers of so many new units."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def tie(self, one: Numbers, other: Numbers) -> None:
        """Tie the units at each position of two arrays of the same length."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            self._tie(a, b)

    def keep(self, units: Numbers, reason: str) -> None:
        """Never remove these units; the first reason counts."""
        for unit in set(units.tolist()):
            self._reasons.setdefault(self._root(unit), reason)

    def roots(self) -> Numbers:
        """Return for each channel the number that it shares with all that it is tied to."""
        return np.array([self._root(unit) for unit in range(len(self._parents))], dtype=np.int64)

    def reasons(self) -> dict[int, str]:
        """Return by root why it stays; roots that may go are missing."""
        return {self._root(unit): reason for unit, reason in reversed(self._reasons.items())}

    def _root(self, unit: int) -> int:
        root = unit
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[unit] != root:
            self._parents[unit], unit = root, self._parents[unit]
        return root

    def _tie(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        if first != second:
            self._parents[second] = first
            if second in self._reasons:
                self._reasons.setdefault(first, self._reasons[second])
