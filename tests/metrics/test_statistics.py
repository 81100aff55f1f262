"""Intervals cover what they should: 500 simulated experiments of known truth each, and known values."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from toolkit.metrics.support.rounds import MIN_ROUNDS, Timing
from toolkit.statistics import (
    mcnemar_p,
    mean_interval,
    median_interval,
    paired_change_interval,
    share_interval,
)

EXPERIMENTS = 500


def coverage(experiment: Callable[[np.random.Generator], tuple[tuple[float, float], float]], seed: int = 7) -> float:
    """In how many of the simulated experiments the interval holds the truth."""
    random = np.random.default_rng(seed)
    results = [experiment(random) for _ in range(EXPERIMENTS)]
    return sum(low <= truth <= high for (low, high), truth in results) / EXPERIMENTS


@pytest.mark.parametrize(("accuracy", "samples"), [(0.991, 10_000), (0.9, 1_000), (0.5, 200)])
def test_intervals_of_an_accuracy_cover_95_percent(accuracy, samples):
    def experiment(random):
        return share_interval(int(random.binomial(samples, accuracy)), samples), accuracy

    assert 0.92 <= coverage(experiment) <= 0.98


@pytest.mark.parametrize(("gain", "loss", "samples"), [(0.002, 0.004, 10_000), (0.01, 0.01, 1_000), (0.05, 0.1, 300)])
def test_intervals_of_a_paired_change_cover_95_percent(gain, loss, samples):
    def experiment(random):
        gained, lost, _ = random.multinomial(samples, [gain, loss, 1 - gain - loss])
        return paired_change_interval(int(gained), int(lost), samples), gain - loss

    assert 0.92 <= coverage(experiment) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.015, 0.03, 0.15])
def test_intervals_of_a_latency_ratio_cover_95_percent_with_the_stopping_rule(noise):
    """Times with a long tail and a drift that hits both models of a round; rounds until `precise`, or 400."""

    def experiment(random):
        drift = np.exp(0.1 * np.cumsum(random.normal(size=400)) / 20)
        model, baseline = (
            drift * seconds * np.exp(noise * random.normal(size=400)) * (1 + (random.random(400) < 0.03) * 3)
            for seconds in (0.8, 1.0)
        )
        rounds = MIN_ROUNDS
        while rounds < 400 and not Timing(model[:rounds], baseline[:rounds]).precise:
            rounds += 1
        return Timing(model[:rounds], baseline[:rounds]).ratio_interval, 0.8

    assert 0.92 <= coverage(experiment) <= 0.98


def test_intervals_of_a_mean_cover_95_percent():
    def experiment(random):
        return mean_interval(random.gamma(2.0, 1.5, size=60)), 3.0

    assert 0.92 <= coverage(experiment) <= 0.98


def test_an_interval_that_is_too_narrow_is_found_out():
    def experiment(random):
        low, high = share_interval(int(random.binomial(1_000, 0.9)), 1_000)
        middle = (low + high) / 2
        return (middle - (high - low) / 4, middle + (high - low) / 4), 0.9

    assert coverage(experiment) < 0.8


def test_wilson_by_its_formula():
    z, n, p = stats.norm.ppf(0.975), 50, 47 / 50
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert share_interval(47, 50) == pytest.approx((middle - reach, middle + reach))
    assert share_interval(0, 10)[0] == 0
    assert share_interval(10, 10)[1] == 1


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 2 / 2**5), (1, 9, 22 / 2**10)])
@pytest.mark.smoke
def test_mcnemar_is_the_exact_binomial_test(gained, lost, p):
    assert mcnemar_p(gained, lost) == pytest.approx(p)


def test_few_values_give_the_widest_interval_there_is():
    assert mean_interval(np.array([2.0])) == (2.0, 2.0)
    assert median_interval(np.array([1.0, 4.0])) == (1.0, 4.0)
    low, high = paired_change_interval(0, 0, 10)
    assert low < 0 < high
