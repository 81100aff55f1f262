"""Times of an opened file: a ratio whose interval says nothing is left out."""

import itertools
from types import SimpleNamespace

import pytest

from toolkit.exports.time_file import MIN_ROUNDS, file_latency
from toolkit.testing import toy_data


def opened(*seconds):
    """A file whose blocks of calls take so many seconds a call, in turn; every second block warms up."""
    times = itertools.cycle(seconds)
    return SimpleNamespace(seconds=lambda calls, _: calls * next(times))


@pytest.mark.load
@pytest.mark.parametrize(("slow_s", "ratio"), [(2.0, {"1": 1.5}), (10.0, {})])
def test_a_ratio_has_an_interval_that_says_something(slow_s, ratio):
    measured = file_latency(opened(1.0, 1.0, slow_s, slow_s), None, opened(1.0), toy_data(8), [1], budget_s=0.0)
    assert measured["latency_rounds"] == {"1": MIN_ROUNDS}
    assert measured["latency_ms"].keys() == {"1"}
    assert measured["latency_ratio"] == ratio
    assert measured["latency_ratio_interval"].keys() == measured["latency_spread_ms"].keys() == ratio.keys()
