"""The times of all rows of a run, so that all of them refer to one timing of the baseline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import psutil

from toolkit.rows import Row
from toolkit.runner.spoilt_times import (
    OF_A_RATIO,
    TIMES,
    Times,
    is_steady,
    replaced,
    spoilt_sizes,
    timed_until_steady,
)

log = logging.getLogger("toolkit")


class RowTimes:
    """The times of all rows as they were measured."""

    def __init__(self) -> None:
        self._measured: list[Times] = []

    def add(self, row: Row, same_device: bool = True) -> Row:
        """Keep the times of the next row, and return the row with times that can be compared with the baseline's.

        Those of a row that was timed on another device than the baseline's row stay as they are.
        """
        self._measured.append(times_of(row) if same_device else {})
        return self._comparable(row, len(self._measured) - 1)

    def comparable(self, rows: Sequence[Row]) -> list[Row]:
        """Return all rows with times that can be compared with the baseline's."""
        return [self._comparable(row, number) for number, row in enumerate(rows)]

    def repeat_spoilt(
        self,
        numbers: Collection[int],
        again: Callable[[int, Sequence[int], float], Times],
        share_s: float,
        limit_s: float,
    ) -> bool:
        """Take spoilt times again, and return whether there were any.

        The baseline is timed first. If it is faster now than in its row, the machine was busy then, and the row gets
        the new time.

        Args:
            numbers: rows that can be timed again.
            again: times a row, by its number, at batch sizes within a budget in seconds; the baseline alone.
            share_s: budget of each repetition.
            limit_s: seconds for all repetitions.
        """
        deadline = time.perf_counter() + limit_s
        sizes = set().union(*self._spoilt().values())
        if not sizes:
            return False
        if limit_s > 0:
            self._correct_baseline(again(0, sorted(map(int, sizes)), share_s))
        for done, number in enumerate(waiting := [number for number in self._spoilt() if number in numbers]):
            now = time.perf_counter()
            until = now + (deadline - now) / (len(waiting) - done)
            baseline, times = self._measured[0], self._measured[number]
            self._measured[number] = timed_until_steady(times, baseline, partial(again, number), share_s, until)
        return True

    def _spoilt(self) -> dict[int, set[str]]:
        """Return the spoilt batch sizes by the number of the row."""
        found = {
            number: spoilt_sizes(times, self._measured[0]) for number, times in enumerate(self._measured) if number
        }
        return {number: sizes for number, sizes in found.items() if sizes}

    def _correct_baseline(self, now: Times) -> None:
        """Replace times of the baseline that were taken on a busier machine."""
        before = self._measured[0]["latency_ms"]
        load = psutil.getloadavg()[0]
        for size, taken in now["latency_ms"].items():
            message = "times at batch %s are taken again: the baseline takes %.3g ms now, %.3g ms in its row; load %.1f"
            log.info(message, size, taken, before[size], load)
        faster = {
            size
            for size, taken in now["latency_ms"].items()
            if taken < before[size] and not is_steady(taken, before[size])
        }
        self._measured[0] = replaced(self._measured[0], now, faster)

    def _comparable(self, row: Row, number: int) -> Row:
        times = self._measured[number]
        return with_times(row, comparable(times, self._measured[0]) if number else times)


def times_of(row: Row) -> Times:
    """Return the times of a row by batch size."""
    return {key: row[key] for key in TIMES if row.get(key) is not None}


def with_times(row: Row, times: Times) -> Row:
    """Return a row with other times."""
    return Row(row.stage, {**row.values, **times}, runtime=row.runtime, timed_with=row.timed_with)


def comparable(times: Times, baseline: Times) -> dict[str, Any]:
    """Return a row's times as the ratio to the baseline, multiplied by the baseline's time in its row.

    All absolute times then refer to one timing of the baseline, and cannot contradict the ratios, however busy the
    machine was at different times. Spoilt batch sizes have no ratio, and keep the time that was measured.
    """
    spoilt = spoilt_sizes(times, baseline)
    kept = {
        key: {size: value for size, value in times[key].items() if size not in spoilt}
        for key in OF_A_RATIO
        if times.get(key)
    }
    return {**times, **kept, **_derived({**times, **kept}, baseline.get("latency_ms") or {})}


def _derived(times: Times, baseline_ms: Times) -> dict[str, Any]:
    """Return the times and their quartiles, scaled to the baseline's time wherever there is a ratio."""
    scales = {
        size: baseline_ms[size] * ratio / times["latency_ms"][size]
        for size, ratio in (times.get("latency_ratio") or {}).items()
        if size in baseline_ms
    }
    derived: dict[str, Any] = {}
    if times.get("latency_ms"):
        derived["latency_ms"] = {size: taken * scales.get(size, 1) for size, taken in times["latency_ms"].items()}
    if times.get("latency_spread_ms"):
        derived["latency_spread_ms"] = {
            size: [end * scales.get(size, 1) for end in ends] for size, ends in times["latency_spread_ms"].items()
        }
    return derived
