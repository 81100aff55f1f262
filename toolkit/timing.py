"""Callables timed in turn: whatever slows the machine down slows all of them, and cancels out in their ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from toolkit.statistics import Floats, Interval, bootstrap_median_interval

__all__ = ["TimeRatio", "Timer", "Timings", "time_in_turn"]

ROUNDS_PER_ORDER = 5
MAX_SPAN = 3.0  # upper end divided by lower end of an interval; a wider one does not say how fast a model is
Name = TypeVar("Name")


@dataclass(frozen=True)
class Timings(Generic[Name]):
    """How long each callable took in each round: `seconds` by name, (rounds,) float64."""

    seconds: Mapping[Name, Floats]

    def median_s(self, name: Name) -> float:
        """Return the median seconds of a call."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: Name, reference: Name) -> float:
        """Return the median over the rounds of a callable's time divided by that of `reference`; below 1 is faster."""
        return median_ratio(self.seconds[name], self.seconds[reference])

    def ratio_interval(self, name: Name, reference: Name) -> Interval:
        """Return the 95 % interval of `ratio`."""
        return ratio_interval(self.seconds[name], self.seconds[reference])

    @property
    def fastest(self) -> Name:
        """The callable with the smallest median."""
        return min(self.seconds, key=self.median_s)


class TimeRatio(NamedTuple):
    """The time of a call divided by that of another model, timed in turn, with the ends of its 95 % interval."""

    ratio: float
    low: float
    high: float


class Timer:
    """Times models next to the model that a stage starts from, as the recipe runs its models.

    Attributes:
        runtime: name of the runtime, or `PyTorch`.
        batch_size: samples per call.
        answers: what it has answered so far.
    """

    def __init__(
        self, runtime: str, batch_size: int, measure: Callable[[nn.Module], TimeRatio], known: Sequence[TimeRatio] = ()
    ) -> None:
        """Measure with a function, but answer the first questions with what is `known`."""
        self.runtime, self.batch_size = runtime, batch_size
        self._measure, self._known = measure, tuple(known)
        self.answers: list[TimeRatio] = []

    def ratio(self, model: nn.Module) -> TimeRatio:
        """Return the time of a model divided by that of the stage's input model; below 1 is faster.

        Both run as they are saved: in eval mode, with masks folded in. One question takes seconds.
        """
        place = len(self.answers)
        self.answers.append(self._known[place] if place < len(self._known) else self._measure(model))
        return self.answers[-1]

    def knowing(self, known: Sequence[TimeRatio]) -> Timer:
        """Return a timer that answers its first questions with what is known, and measures the others as this one."""
        return Timer(self.runtime, self.batch_size, self._measure, known)


def time_in_turn(
    calls: Mapping[Name, Callable[[], Any]],
    budget_s: float,
    *,
    min_rounds: int = 5,
    max_rounds: int | None = None,
    warm_up: bool = False,
    device: torch.device | None = None,
) -> Timings[Name]:
    """Time callables in rounds; each round calls every one of them once, forwards or backwards.

    Args:
        calls: by name. Call each of them beforehand if its first call does more than later ones.
        budget_s: seconds after which no further round begins, once there were `min_rounds`.
        min_rounds: rounds, however long they take.
        max_rounds: rounds, however little they take; no limit by default.
        warm_up: make an untimed call right before each timed one, because the callable before it filled the caches.
        device: an accelerator to wait for after each call, so that the work is timed and not its submission.
    """
    start = time.perf_counter()

    def timed(call: Callable[[], Any]) -> float:
        if warm_up:
            call()
            _wait_for(device)
        started = time.perf_counter()
        call()
        _wait_for(device)
        return time.perf_counter() - started

    def enough(rounds: list[list[float]]) -> bool:
        if len(rounds) < min_rounds:
            return False
        return len(rounds) == max_rounds or time.perf_counter() - start >= budget_s

    rounds = take_turns([partial(timed, call) for call in calls.values()], enough)
    return Timings(dict(zip(calls, np.array(rounds, dtype=np.float64).T, strict=True)))


def take_turns(blocks: Sequence[Callable[[], float]], enough: Callable[[list[list[float]]], bool]) -> list[list[float]]:
    """Return what each block returns, in rounds: one row a round, in the order of the blocks."""
    rounds: list[list[float]] = []
    while not enough(rounds):
        seconds = {place: blocks[place]() for place in turns(len(rounds), len(blocks))}
        rounds.append([seconds[place] for place in range(len(blocks))])
    return rounds


def turns(round_number: int, blocks: int) -> list[int]:
    """Return the places of the blocks in the order of their turns in a round.

    What slows a machine down begins suddenly and fades slowly. In one order only, the first of two equal models would
    therefore be the slower one in most rounds: on a busy machine in 69 % of them. So the order changes, but seldom: a
    block that follows itself finds its data in the cache. (With every second round backwards, the intervals of two
    equal models were twice as wide.)
    """
    forwards = round_number // ROUNDS_PER_ORDER % 2 == 0
    return [*range(blocks)] if forwards else [*reversed(range(blocks))]


def median_ratio(seconds: Floats, reference: Floats) -> float:
    """Return the median of the ratios of two times, (rounds,) each, taken in the same rounds.

    The two times of a round were taken within milliseconds: what slows the machine down slows both and cancels out, in
    the ratio and in its interval. A median, because an interruption hits only one of them.
    """
    return float(np.median(seconds / reference))


def ratio_interval(seconds: Floats, reference: Floats) -> Interval:
    """Return the 95 % interval of `median_ratio`, by the bootstrap."""
    return bootstrap_median_interval(seconds / reference)


def is_known(interval: Interval) -> bool:
    """Return whether the interval of a ratio says something: above 0, and its ends at most `MAX_SPAN` times apart."""
    low, high = interval
    return low > 0 and high <= MAX_SPAN * low


def _wait_for(device: torch.device | None) -> None:
    if device is not None and device.type != "cpu":
        torch.accelerator.synchronize(device)
