"""The time that the latency of a row may take."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[float, float], None]

MAX_BUDGETS = 3  # that a measurement may take if the machine is too busy for the fewest rounds in one
MIN_LIMIT_S = 0.2  # of each batch size, however small the budget is


class TimeBudget:
    """The seconds for all batch sizes together, and the callable that receives the progress."""

    def __init__(self, total_s: float, on_progress: Progress | None) -> None:
        self._total_s = total_s
        self._start = self._told = time.perf_counter()
        self._on_progress = on_progress

    def share(self, parts: int) -> float:
        """Return the moment at which the first of so many equal parts of the remaining time ends."""
        return self._moment(self._total_s, parts)

    def limit(self, parts: int) -> float:
        """Return the moment until which a part may last that the machine is too busy for."""
        return max(self._moment(MAX_BUDGETS * self._total_s, parts), time.perf_counter() + MIN_LIMIT_S)

    def exclude(self, seconds: float) -> None:
        """Leave out seconds that have just passed."""
        self._start += seconds

    def tell(self) -> bool:
        """Report progress, ten times a second at most: what listens costs time and caches. Return whether it did."""
        now = time.perf_counter()
        if self._on_progress is None or now - self._told < 0.1:
            return False
        self._told = now
        self._on_progress(min(now - self._start, self._total_s), self._total_s)
        return True

    def end(self) -> None:
        """Report that everything is done."""
        if self._on_progress is not None:
            self._on_progress(self._total_s, self._total_s)

    def _moment(self, total_s: float, parts: int) -> float:
        now = time.perf_counter()
        return now + max(0.0, self._start + total_s - now) / parts
