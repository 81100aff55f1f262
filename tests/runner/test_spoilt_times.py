"""A ratio is left out if the baseline's own time has changed since its row: the machine was busy."""

import pytest

from toolkit.rows import Row
from toolkit.runner import in_progress
from toolkit.runner.spoilt_times import without_spoilt_ratios

BASELINE = Row("baseline", {"latency_ms": {"1": 0.4, "128": 9.0}})


def timed(ratio):
    of_sizes = {"1": ratio, "128": 0.5}
    return {
        "latency_ms": {"1": 0.1, "128": 4.5},
        "latency_spread_ms": {size: [1.0, 2.0] for size in of_sizes},
        "latency_ratio": of_sizes,
        "latency_ratio_interval": {size: [0.0, 1.0] for size in of_sizes},
    }


@pytest.mark.parametrize("ratio", [0.13, 0.25, 0.49])
def test_steady_baselines_keep_their_ratios(ratio):
    assert without_spoilt_ratios(timed(ratio), BASELINE) == timed(ratio)


@pytest.mark.parametrize("ratio", [0.004, 0.12, 0.51])
def test_a_baseline_that_takes_another_time_has_no_ratio(ratio):
    values = without_spoilt_ratios(timed(ratio), BASELINE)
    assert values["latency_ms"] == {"1": 0.1, "128": 4.5}
    assert values["latency_ratio"] == {"128": 0.5}
    assert values["latency_spread_ms"].keys() == values["latency_ratio_interval"].keys() == {"128"}


def test_other_rows_and_baselines_without_times_are_left_alone():
    assert without_spoilt_ratios({"accuracy": 0.9}, BASELINE) == {"accuracy": 0.9}
    assert without_spoilt_ratios(timed(0.004), Row("baseline", {})) == timed(0.004)


@pytest.mark.load
def test_rows_of_a_run_are_looked_at(recipe_run, monkeypatch):
    monkeypatch.setattr("toolkit.runner.spoilt_times.MAX_DRIFT", 1e-9)
    assert in_progress.without_spoilt_ratios is without_spoilt_ratios
    outcome = recipe_run('[[stages]]\ntechnique = "pruning"')
    assert outcome.rows[0]["latency_ratio"]
    assert outcome.rows[1]["latency_ratio"] == {}
