"""Callables timed in turn, on a clock that only they move, so that every number is known."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from toolkit import timing

pytestmark = pytest.mark.precise


class Clock:
    """Stands still unless a callable moves it; remembers who moved it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.calls: list[str] = []

    def call(self, name: str, seconds: float | Callable[[], float]) -> Callable[[], None]:
        """A callable that takes so many seconds."""

        def run() -> None:
            self.calls.append(name)
            self.now_s += seconds if isinstance(seconds, float) else seconds()

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now_s)
    return clock


def test_every_round_calls_each_once_in_the_order_given(clock: Clock) -> None:
    timings = timing.time_in_turn({"a": clock.call("a", 0.1), "b": clock.call("b", 0.2)}, 1.0)
    assert clock.calls == ["a", "b"] * 5
    assert timings.seconds["a"] == pytest.approx([0.1] * 5)
    assert timings.median_s("b") == pytest.approx(0.2)
    assert timings.fastest == "a"
    assert timings.ratio("b", "a") == pytest.approx(2.0)
    assert timings.ratio_interval("b", "a") == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize(
    ("budget_s", "limits", "rounds"),
    [(10.0, {}, 100), (0.0, {}, 5), (0.0, {"min_rounds": 3}, 3), (10.0, {"max_rounds": 7}, 7), (0.55, {}, 6)],
)
def test_rounds_end_with_the_budget_or_the_limit(
    clock: Clock, budget_s: float, limits: dict[str, Any], rounds: int
) -> None:
    timings = timing.time_in_turn({"a": clock.call("a", 0.1)}, budget_s, **limits)
    assert abs(len(timings.seconds["a"]) - rounds) <= (rounds == 100)  # sums of 0.1 are not exact


def test_a_warm_up_before_each_call_is_not_timed(clock: Clock) -> None:
    def seconds() -> float:  # the second of two calls in a row finds its data in the cache
        return 0.1 if clock.calls[-2:] in (["a", "a"], ["b", "b"]) else 0.5

    calls = {"a": clock.call("a", seconds), "b": clock.call("b", seconds)}
    warm = timing.time_in_turn(calls, 0.0, warm_up=True)
    assert clock.calls == ["a", "a", "b", "b"] * 5
    assert warm.seconds["a"] == pytest.approx([0.1] * 5)
    assert timing.time_in_turn(calls, 0.0).median_s("a") == pytest.approx(0.5)


def test_what_slows_the_machine_down_cancels_out_in_ratios(clock: Clock) -> None:
    def busy() -> float:
        return 7.0 if len(clock.calls) % 14 < 8 else 1.0

    calls = {"a": clock.call("a", lambda: 0.01 * busy()), "b": clock.call("b", lambda: 0.02 * busy())}
    timings = timing.time_in_turn(calls, 3.0)
    assert timings.ratio("a", "b") == pytest.approx(0.5)
    low, high = timings.ratio_interval("a", "b")
    assert low <= 0.5 <= high


def test_a_ratio_is_the_median_over_the_rounds_not_a_ratio_of_medians() -> None:
    assert timing.median_ratio(np.array([1.0, 2.0, 3.0]), np.array([3.0, 1.0, 2.0])) == pytest.approx(1.5)


def test_the_interval_of_a_ratio_narrows_with_the_noise() -> None:
    noise = np.random.default_rng(0)
    reference = noise.lognormal(0, 0.2, 200)

    def width(spread: float) -> float:
        low, high = timing.ratio_interval(0.8 * reference * noise.lognormal(0, spread, 200), reference)
        assert low < 0.8 < high
        return high - low

    assert width(0.2) > 3 * width(0.02)


def test_on_the_real_clock() -> None:
    timings = timing.time_in_turn({"long": lambda: time.sleep(0.02), "short": lambda: None}, 0.0)
    assert timings.fastest == "short"
    assert timings.median_s("long") >= 0.02


@pytest.mark.load
@pytest.mark.parametrize(
    ("interval", "known"),
    [((0.6, 1.7), True), ((1.0, 1.0), True), ((0.5, 1.6), False), ((0.0, 1.0), False), ((-14.0, 16.1), False)],
)
def test_the_interval_of_a_ratio_says_something_up_to_a_factor_of_three(
    interval: tuple[float, float], known: bool
) -> None:
    assert timing.is_known(interval) is known
