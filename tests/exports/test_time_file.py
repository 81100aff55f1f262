"""Times of an opened file: a ratio whose interval says nothing is left out."""

import itertools
from types import SimpleNamespace

import pytest

from toolkit.exports.time_file import MIN_ROUNDS, file_latency
from toolkit.testing import toy_data


def opened(*seconds):
    """A file whose calls take so many seconds, in turn."""
    times = itertools.cycle(seconds)
    return SimpleNamespace(seconds=lambda calls, _: calls * next(times))


@pytest.mark.load
@pytest.mark.parametrize(("slow_s", "ratio"), [(2.0, {"1": 1.5}), (10.0, None)])
def test_a_ratio_has_an_interval_that_says_something(slow_s, ratio):
    measured = file_latency(opened(1.0, slow_s), None, opened(1.0), toy_data(8), [1], budget_s=0.0)
    assert measured["latency_rounds"] == {"1": MIN_ROUNDS}
    assert measured["latency_ms"].keys() == {"1"}
    assert measured.get("latency_ratio") == ratio
    assert ("latency_ratio_interval" in measured) is ("latency_spread_ms" in measured) is (ratio is not None)
