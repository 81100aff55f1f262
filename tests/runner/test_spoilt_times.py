"""Times that a busy machine has spoilt: they are recognized, taken again, and else left without a ratio."""

import sys
import time

import pytest

from toolkit.metrics.latency import latency
from toolkit.rows import Row
from toolkit.runner import measure_stage
from toolkit.runner.row_times import RowTimes, comparable
from toolkit.runner.spoilt_times import spoilt_sizes, timed_until_steady

pytestmark = [pytest.mark.load, pytest.mark.precise]

BASELINE = {"latency_ms": {"1": 0.4, "128": 9.0}}
OF_A_RATIO = ("latency_spread_ms", "latency_ratio", "latency_ratio_interval")


def timed(ratio, taken=0.1):
    of_sizes = {"1": ratio, "128": 0.5}
    return {
        "latency_ms": {"1": taken, "128": 4.5},
        "latency_rounds": {"1": 40, "128": 40},
        "latency_spread_ms": {"1": [0.05, 0.2], "128": [4.0, 5.0]},
        "latency_ratio": of_sizes,
        "latency_ratio_interval": {size: [0.9 * ratio, 1.1 * ratio] for size, ratio in of_sizes.items()},
        "runtime_ratio": dict(of_sizes),
    }


def alone(taken):
    return {
        "latency_ms": {"1": taken, "128": 9.0},
        "latency_rounds": {"1": 40, "128": 40},
        "latency_ratio": {"1": 1.0, "128": 1.0},
    }


@pytest.mark.parametrize("ratio", [0.13, 0.25, 0.49])
def test_steady_baselines_keep_their_ratios(ratio):
    values = comparable(timed(ratio), BASELINE)
    assert values["latency_ratio"] == {"1": ratio, "128": 0.5}
    assert spoilt_sizes(timed(ratio), BASELINE) == set()


@pytest.mark.parametrize("ratio", [0.004, 0.12, 0.51])
def test_a_baseline_that_takes_another_time_has_no_ratio(ratio):
    values = comparable(timed(ratio), BASELINE)
    assert values["latency_ms"] == {"1": 0.1, "128": 4.5}
    assert values["latency_ratio"] == {"128": 0.5}
    assert values["latency_spread_ms"].keys() == values["latency_ratio_interval"].keys() == {"128"}


def test_other_rows_and_baselines_without_times_are_left_alone():
    assert comparable({}, BASELINE) == {}
    assert comparable(timed(0.004), {}) == timed(0.004)


def test_times_are_the_baselines_times_the_ratio_and_cannot_contradict_it():
    # Next to this row the baseline took 0.2 ms, half of what it took in its row.
    values = comparable(timed(0.5), BASELINE)
    assert values["latency_ms"] == {"1": pytest.approx(0.4 * 0.5), "128": 4.5}
    assert values["latency_spread_ms"]["1"] == pytest.approx([0.1, 0.4])
    assert values["latency_ratio_interval"] == timed(0.5)["latency_ratio_interval"]


def test_too_few_rounds_are_spoilt_as_well():
    assert spoilt_sizes({"latency_ms": {"1": 0.1, "128": 4.5}, "latency_ratio": {"1": 0.25}}, BASELINE) == {"128"}


class TestRepetition:
    def rows(self, *all_times):
        times = RowTimes()
        return times, [times.add(Row(f"row {number}", values)) for number, values in enumerate(all_times)]

    def test_only_spoilt_sizes_are_timed_again_until_they_are_steady(self):
        results = iter([timed(0.9), timed(0.004), timed(0.25)])
        asked = []

        def again(sizes, budget_s):
            asked.append((sizes, budget_s))
            return next(results)

        times = timed_until_steady(timed(0.004), BASELINE, again, 0.5, time.perf_counter() + 60)
        assert times == timed(0.25)
        assert asked == [([1], 0.5)] * 3

    def test_it_ends_when_time_is_over(self):
        def again(sizes, budget_s):
            assert 3 * budget_s <= 0.1
            time.sleep(0.02)
            return timed(0.004)

        times = timed_until_steady(timed(0.004), BASELINE, again, 0.5, time.perf_counter() + 0.1)
        assert spoilt_sizes(times, BASELINE) == {"1"}

    def test_rows_are_timed_again_next_to_the_baseline(self):
        times, rows = self.rows(alone(0.4), timed(0.004), timed(0.25))
        assert "1" not in rows[1]["latency_ratio"]
        asked = []

        def again(number, sizes, budget_s):
            asked.append((number, sizes))
            return timed(0.25) if number else alone(0.41)

        assert times.repeat_spoilt([0, 1, 2], again, 0.1, 60)
        rows = times.comparable(rows)
        assert asked == [(0, [1]), (1, [1])]
        assert rows[1]["latency_ratio"] == {"1": 0.25, "128": 0.5}
        assert rows[0]["latency_ms"]["1"] == 0.4

    def test_a_baseline_that_was_timed_on_a_busy_machine_gets_the_faster_time(self):
        times, rows = self.rows(alone(4.0), timed(0.25))
        assert times.repeat_spoilt([0, 1], lambda *_: alone(0.4), 0.1, 60)
        rows = times.comparable(rows)
        assert rows[0]["latency_ms"] == {"1": 0.4, "128": 9.0}
        assert rows[1]["latency_ratio"] == {"1": 0.25, "128": 0.5}

    def test_rows_that_seemed_steady_next_to_the_slow_baseline_are_timed_again(self):
        slow = timed(0.25, taken=1.0)
        times, rows = self.rows(alone(4.0), slow, timed(0.25))
        assert times.repeat_spoilt([0, 1, 2], lambda number, *_: timed(0.2, 0.08) if number else alone(0.4), 0.1, 60)
        rows = times.comparable(rows)
        assert rows[1]["latency_ratio"]["1"] == 0.2
        assert rows[2]["latency_ratio"]["1"] == 0.25

    def test_steady_rows_are_not_timed_again(self):
        times, _ = self.rows(alone(0.4), timed(0.25))
        assert not times.repeat_spoilt([0, 1], lambda *_: pytest.fail("was timed"), 0.1, 60)

    def test_rows_of_another_device_keep_their_times(self):
        times = RowTimes()
        times.add(Row("baseline", alone(0.4)))
        row = Row("file", timed(0.004))
        assert times.add(row, same_device=False) == row
        assert not times.repeat_spoilt([0], lambda *_: pytest.fail("was timed"), 0.1, 60)


RECIPE = '[measure]\nbudget = 20.0\nbatch_sizes = [1]\n[[stages]]\ntechnique = "pruning"'


@pytest.fixture
def timings(monkeypatch):
    """Lets the machine be so busy in some measurements that a call takes a thousand times as long; counts them."""
    busy, done, then = set(), [], []

    def measured(model, baseline, *_):
        ratio, factor = (1.0 if model is baseline else 0.5), (1000.0 if len(done) in busy else 1.0)
        done.append(model)
        for call in then:
            call()
        times = {"latency_ms": 0.1 * factor * ratio, "latency_rounds": 40, "latency_ratio": ratio}
        return {key: {"1": value} for key, value in times.items()}

    monkeypatch.setattr(sys.modules[latency.__module__], "latency", measured)
    monkeypatch.setattr(measure_stage, "latency", measured)
    return busy, done, then


@pytest.mark.parametrize("busy_in", [{0}, {1}])
def test_a_run_times_again_what_was_spoilt(recipe_run, timings, busy_in):
    busy, done, _ = timings
    busy |= busy_in
    outcome = recipe_run(RECIPE)
    assert len(done) == (3 if busy_in == {0} else 4)
    assert outcome.rows[0]["latency_ms"] == {"1": 0.1}
    assert outcome.rows[1]["latency_ms"] == {"1": 0.05}
    assert outcome.rows[1]["latency_ratio"] == {"1": 0.5}
    assert outcome.report.read(outcome.directory) == outcome.report
    assert "times at batch 1 are taken again" in outcome.log


def test_who_waits_is_told_that_rows_are_timed_again(recipe_run, timings, monkeypatch):
    told = []

    def tell(observers, event, **values):
        if values.get("activity") == "timing again":
            told.append((event, values["stage"].name, values["done"]))

    monkeypatch.setattr("toolkit.runner.observers.Observers.tell", tell)
    timings[0].add(1)
    recipe_run(RECIPE)
    assert told == [("on_progress", name, done) for name in ("baseline", "pruning") for done in (0.0, 1.0)]


def test_what_cannot_be_timed_has_no_ratio_and_the_verdict_says_so(recipe_run, timings, monkeypatch):
    monkeypatch.setattr("toolkit.runner.measure_stage.Measuring.repeat_s", 0.0)
    timings[0].add(1)
    outcome = recipe_run(RECIPE)
    assert outcome.rows[1]["latency_ratio"] == {}
    assert "The machine was too busy to time batch 1." in str(outcome.report).replace("\n", " ")


def test_no_more_than_three_budgets_are_spent(recipe_run, timings, monkeypatch):
    limits = []
    monkeypatch.setattr(RowTimes, "repeat_spoilt", lambda *arguments: limits.append(arguments[-1]))
    recipe_run(RECIPE)
    now, real = [0.0], time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: real() + now[0])
    timings[2].append(lambda: now.__setitem__(0, now[0] + 25.0))
    recipe_run(RECIPE, output="other")
    assert limits == [pytest.approx(60.0, abs=5.0), pytest.approx(10.0, abs=5.0)]
