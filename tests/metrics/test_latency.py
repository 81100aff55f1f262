"""Latency on a clock that only models move, so that every number is known; and once on the real one."""

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit.metrics import latency, timings
from toolkit.metrics.support.rounds import MIN_ROUNDS, MIN_ROUNDS_FOR_INTERVAL
from toolkit.metrics.support.time_budget import MIN_LIMIT_S
from toolkit.statistics import median_interval
from toolkit.testing import toy_data, toy_mlp

pytestmark = pytest.mark.precise
DATA = toy_data(16)


class Clock:
    """Stands still unless a model moves it; shows whole ticks only."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.tick_s = 0.0

    def __deepcopy__(self, _: Any) -> "Clock":
        return self  # a copied model moves the same clock

    def read(self) -> float:
        return self.now_s // self.tick_s * self.tick_s if self.tick_s else self.now_s


class Takes(nn.Module):
    """A model that takes `seconds(batch size)` on the clock."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float]) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.calls: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append(len(inputs))
        self.clock.now_s += self.seconds(len(inputs))
        return inputs.flatten(1)[:, :4]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.read)
    return clock


def noisy(clock: Clock, seconds: float, spread: float) -> Takes:
    """A model whose times are log-normal around a median; always the same ones."""
    noise = np.random.default_rng(round(seconds * 1e6))
    return Takes(clock, lambda _: seconds * float(noise.lognormal(0, spread)))


def elapsed(clock: Clock) -> float:
    return clock.now_s - 1000.0


def test_milliseconds_and_ratio_are_those_of_the_clock_and_steady_models_cost_little(clock: Clock) -> None:
    model = Takes(clock, lambda size: 0.001 + 0.001 * size)
    baseline = Takes(clock, lambda size: 0.004 * size)

    measured = latency(model, baseline, DATA, [1, 3, 40, 1], budget_s=60)

    assert measured["latency_ms"] == {key: pytest.approx(ms) for key, ms in {"1": 2, "3": 4, "40": 41}.items()}
    expected = {"1": 2 / 4, "3": 4 / 12, "40": 41 / 160}
    assert measured["latency_ratio"] == {key: pytest.approx(ratio) for key, ratio in expected.items()}
    assert elapsed(clock) < 15  # of 60
    assert set(model.calls) == {1, 3, 40}


def test_a_coarse_clock_does_not_matter(clock: Clock) -> None:
    clock.tick_s = 0.001
    model, baseline = Takes(clock, lambda _: 30e-6), Takes(clock, lambda _: 75e-6)

    measured = latency(model, baseline, DATA, [1], budget_s=5)

    assert measured["latency_ms"]["1"] == pytest.approx(0.03, rel=0.1)
    assert measured["latency_ratio"]["1"] == pytest.approx(0.4, rel=0.05)


@pytest.mark.smoke
def test_what_slows_the_machine_down_cancels_out(clock: Clock) -> None:
    def slowdown() -> float:  # busy for half of every three seconds
        return 5.0 if elapsed(clock) % 3 < 1.5 else 1.0

    model = Takes(clock, lambda _: 0.02 * slowdown())
    baseline = Takes(clock, lambda _: 0.025 * slowdown())

    assert latency(model, baseline, DATA, [1], budget_s=20)["latency_ratio"]["1"] == pytest.approx(0.8, rel=1e-6)


def test_compiling_is_neither_measured_nor_taken_from_the_budget(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = {"stats": {"unique_graphs": 0}}
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", SimpleNamespace(counters=counters))

    def seconds(size: int) -> float:
        if model.calls.count(size) > 1:
            return 0.001
        counters["stats"]["unique_graphs"] += 1
        return 30.0

    model: Takes = Takes(clock, seconds)
    measured = timings(model, Takes(clock, lambda _: 0.002), DATA, [1, 8], budget_s=4)
    for timing in measured.values():
        assert timing.ratio == pytest.approx(0.5)
        assert timing.model.max() < 0.01
        assert len(timing.model) >= 20
    assert elapsed(clock) <= 60 + 1.1 * 4


def test_noise_is_measured_away_within_the_budget(clock: Clock) -> None:
    model, baseline = noisy(clock, 0.008, 0.06), noisy(clock, 0.010, 0.06)

    timing = timings(model, baseline, DATA, [1], budget_s=60)[1]
    low, high = timing.ratio_interval
    assert 1 < elapsed(clock) < 20
    assert high - low < 0.03 * timing.ratio
    assert low < 0.8 < high
    assert timing.latency_ms == pytest.approx(8, rel=0.05)

    before = elapsed(clock)
    timing = timings(model, baseline, DATA, [1, 2], budget_s=2)[1]
    low, high = timing.ratio_interval
    assert high - low > 0.03 * timing.ratio
    assert 1.8 < elapsed(clock) - before < 2.1


def test_few_rounds_are_never_enough_if_there_is_time_for_more(clock: Clock) -> None:
    timing = timings(Takes(clock, lambda _: 0.5), Takes(clock, lambda _: 0.5), DATA, [1], budget_s=1000)[1]
    assert len(timing.model) == len(timing.baseline) == MIN_ROUNDS


def test_slowdowns_that_begin_suddenly_and_fade_slowly_favor_neither_model(clock: Clock) -> None:
    def seconds(_: int) -> float:
        return 0.001 * (3.0 - 2.0 * (elapsed(clock) % 0.37) / 0.37)

    timing = timings(Takes(clock, seconds), Takes(clock, seconds), DATA, [1], budget_s=5)[1]
    low, high = timing.ratio_interval
    assert low < 1 < high
    # In the same order always, the first model would take longer in nearly every round.
    assert 0.4 < np.mean(timing.model > timing.baseline) < 0.6


def test_what_listens_to_the_progress_slows_no_timed_call_down(clock: Clock) -> None:
    displaced: list[bool] = []

    def seconds(_: int) -> float:
        return 0.003 if displaced and displaced.pop() else 0.001

    def listen(*_: float) -> None:
        displaced[:] = [True]

    noise = noisy(clock, 0.001, 0.3)
    model, baseline = Takes(clock, seconds), Takes(clock, lambda size: seconds(size) * noise.seconds(size) / 0.001)
    timing = timings(model, baseline, DATA, [1], budget_s=3, on_progress=listen)[1]
    assert len(timing.model) > 100
    assert timing.model[1:] == pytest.approx(0.001)


@pytest.mark.parametrize("budget_s", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("call_s", [1e-4, 0.01, 0.1])
def test_the_budget_is_kept(clock: Clock, call_s: float, budget_s: float) -> None:
    model, baseline = noisy(clock, call_s, 0.1), noisy(clock, 0.9 * call_s, 0.1)
    measured = latency(model, baseline, DATA, [1, 128], budget_s)
    rounds_s = 2 * 2 * call_s * (MIN_ROUNDS_FOR_INTERVAL + 2)  # of both models at both sizes, with warming up
    extended_s = min(max(3.1 * budget_s, 2 * 1.1 * MIN_LIMIT_S), 1.1 * rounds_s)
    # One call of each at each size there must be.
    assert elapsed(clock) <= max(1.1 * budget_s, 5 * call_s, extended_s)
    if rounds_s < budget_s:
        assert measured["latency_ratio"].keys() == {"1", "128"}


def test_a_busy_machine_gets_three_budgets_for_an_interval(clock: Clock) -> None:
    model, baseline = Takes(clock, lambda _: 0.2), Takes(clock, lambda _: 0.1)
    assert latency(model, baseline, DATA, [1], budget_s=0.8)["latency_ratio"] == {"1": 2.0}
    assert latency(model, baseline, DATA, [1], budget_s=0.5)["latency_ratio"] == {}


def test_a_stall_does_not_end_the_measurement(clock: Clock) -> None:
    def seconds(_: int) -> float:
        return 2.0 if len(model.calls) == 5 else 0.05

    model = Takes(clock, seconds)
    timing = timings(model, Takes(clock, lambda _: 0.05), DATA, [1], budget_s=1)[1]
    assert len(timing.model) == MIN_ROUNDS_FOR_INTERVAL
    assert timing.ratio == pytest.approx(1.0)


def test_a_model_slower_than_the_budget_is_called_once(clock: Clock) -> None:
    model, baseline = Takes(clock, lambda size: 100.0 * size), Takes(clock, lambda size: 50.0 * size)

    measured = latency(model, baseline, DATA, [1, 2], budget_s=1)

    assert measured["latency_ms"] == {"1": 1e5, "2": 2e5}
    assert measured["latency_ratio"] == measured["latency_ratio_interval"] == measured["latency_spread_ms"] == {}
    assert model.calls == baseline.calls == [1, 2]


@pytest.mark.load
def test_an_interval_of_more_than_a_factor_of_three_leaves_no_ratio(clock: Clock) -> None:
    draws = np.random.default_rng(0)
    model = Takes(clock, lambda _: float(draws.choice([0.05, 0.5])))
    measured = latency(model, Takes(clock, lambda _: 0.05), DATA, [1], budget_s=20)
    assert measured["latency_rounds"]["1"] > MIN_ROUNDS_FOR_INTERVAL
    assert measured["latency_ms"].keys() == {"1"}
    assert measured["latency_ratio"] == measured["latency_ratio_interval"] == measured["latency_spread_ms"] == {}


def test_warming_up_is_not_measured(clock: Clock) -> None:
    model: Takes = Takes(clock, lambda _: 0.05 if len(model.calls) <= 3 else 0.001)
    timing = timings(model, Takes(clock, lambda _: 0.001), DATA, [1], budget_s=40)[1]
    assert timing.model.max() == pytest.approx(0.001)


def test_interruptions_of_one_of_the_two_do_not_matter(clock: Clock) -> None:
    model: Takes = Takes(clock, lambda _: 0.02 if len(model.calls) % 7 else 0.5)
    baseline = Takes(clock, lambda _: 0.04)

    measured = latency(model, baseline, DATA, [1], budget_s=20)

    assert measured["latency_ms"]["1"] == pytest.approx(20)
    assert measured["latency_ratio"]["1"] == pytest.approx(0.5)


def test_neither_finds_the_cache_as_it_left_it(clock: Clock) -> None:
    called: list[str] = []

    def seconds(name: str) -> float:  # whoever was called last is faster, as its weights are in the cache
        again = called[-1:] == [name]
        called.append(name)
        return 0.02 if again else 0.03

    model, baseline = Takes(clock, lambda _: seconds("model")), Takes(clock, lambda _: seconds("baseline"))
    assert timings(model, baseline, DATA, [1], budget_s=20)[1].ratio_interval == pytest.approx((1.0, 1.0))


def test_the_baseline_is_timed_alone_in_half_of_the_time(clock: Clock) -> None:
    baseline = noisy(clock, 0.01, 0.5)

    measured = latency(baseline, baseline, DATA, [1, 8], budget_s=4)

    assert measured["latency_ratio"] == {"1": 1.0, "8": 1.0}
    assert measured["latency_ms"]["1"] == pytest.approx(10, rel=0.2)
    assert 1.5 < elapsed(clock) < 2.1
    steady = Takes(clock, lambda _: 0.01)
    before = elapsed(clock)
    latency(steady, steady, DATA, [1], budget_s=100)
    assert elapsed(clock) - before < 1


def test_progress_is_told_now_and_then_and_ends_with_everything_done(clock: Clock) -> None:
    told: list[tuple[float, float]] = []
    model, baseline = Takes(clock, lambda _: 0.01), Takes(clock, lambda _: 0.01)

    latency(model, baseline, DATA, [1, 2], 20, lambda done_s, total_s: told.append((done_s, total_s)))

    assert told == sorted(told)
    assert {total_s for _, total_s in told} == {20}
    assert [done_s for done_s, _ in told].count(20) == 1
    assert told[-1] == (20, 20)
    assert 4 <= len(told) <= 10 * elapsed(clock) + 1


def test_no_batch_sizes_are_no_latencies(clock: Clock) -> None:
    assert latency(toy_mlp(), toy_mlp(), DATA, [], 1)["latency_ms"] == {}


def test_masks_are_folded_in_before_the_timing_and_the_model_stays_as_it_was(clock: Clock) -> None:
    calls: list[Tensor] = []

    class Counted(masks.Mask):
        def forward(self, weight: Tensor) -> Tensor:
            calls.append(weight)
            return super().forward(weight)

    layer = nn.Linear(64, 4)
    model = nn.Sequential(nn.Flatten(), layer, Takes(clock, lambda _: 0.01)).train()
    layer.eval()
    parametrize.register_parametrization(layer, "weight", Counted(torch.zeros(4, 64)))

    calls.clear()
    latency(model, Takes(clock, lambda _: 0.01), DATA, [1, 2], budget_s=1)

    assert len(calls) < 5
    assert parametrize.is_parametrized(layer, "weight")
    assert [module.training for module in (model, model[0], layer, model[2])] == [True, True, False, True]
    assert not any(module._forward_hooks for module in model.modules())


def test_what_a_module_keeps_from_its_first_call_can_still_be_trained_with() -> None:
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 4)
            self.kept: dict[int, Tensor] = {}

        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) not in self.kept:
                self.kept[len(inputs)] = torch.ones(len(inputs), 4)
            return self.layer(inputs.flatten(1)) * self.kept[len(inputs)]

    model = Caches()
    latency(model, toy_mlp(), DATA, [1, 8], budget_s=0.1)
    model(DATA.example(8).inputs).sum().backward()


def test_the_interval_of_a_median_contains_it_in_95_of_100_experiments() -> None:
    noise = np.random.default_rng(1)
    values = noise.exponential(1.0, (1500, 25))
    covered = [low <= np.log(2) <= high for low, high in map(median_interval, values)]
    assert 0.93 <= np.mean(covered) <= 0.975
    assert median_interval(np.array([3.0, 1.0])) == (1.0, 3.0)
    assert median_interval(np.array([3.0])) == (3.0, 3.0)


def test_on_the_real_clock() -> None:
    def sleeping(seconds: float) -> Any:
        class Sleeps(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                time.sleep(seconds)
                return inputs

        return Sleeps()

    start = time.monotonic()
    measured = latency(sleeping(0.002), sleeping(0.008), DATA, [1], budget_s=0.4)
    assert time.monotonic() - start < 2
    assert 2 <= measured["latency_ms"]["1"] < 20
    assert 0.1 < measured["latency_ratio"]["1"] < 0.8
