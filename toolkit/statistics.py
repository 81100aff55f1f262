"""Intervals and tests for what is measured: pure functions of numbers. Every interval is a 95 % interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 999
FEWEST_RESAMPLED = 40
Z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]


def share_interval(successes: int, samples: int) -> Interval:
    """Return the Wilson interval of a share, such as an accuracy (Wilson 1927)."""
    interval = stats.binomtest(successes, samples).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def paired_change_interval(gained: int, lost: int, samples: int) -> Interval:
    """Return the interval of the difference of two shares on the same samples: Bonett and Price 2012, adjusted Wald.

    Args:
        gained: samples that only the new model gets right.
        lost: samples that only the old one got right.
        samples: all samples.
    """
    gain, loss = (gained + 1) / (samples + 2), (lost + 1) / (samples + 2)
    reach = Z * np.sqrt((gain + loss - (gain - loss) ** 2) / (samples + 2))
    return max(-1.0, float(gain - loss - reach)), min(1.0, float(gain - loss + reach))


def mcnemar_p(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value that two models are right equally often (McNemar 1947); 1 if they agree."""
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def mean_interval(values: Floats) -> Interval:
    """Return the interval of the mean of (N,) independent values, by Student's t; of one value, the value twice."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * stats.sem(values))
    return mean - reach, mean + reach


def bootstrap_median_interval(values: Floats) -> Interval:
    """Return the interval of the median of (n,) values, by percentiles of a seeded bootstrap (Efron 1979).

    The percentiles are expanded for small n (Hesterberg 2015). Of fewer than `FEWEST_RESAMPLED` values resampling
    covers too little nevertheless (91 % of 10), and order statistics are taken.
    """
    count = len(values)
    if count < FEWEST_RESAMPLED:
        return median_interval(values)
    reach = (count / (count - 1)) ** 0.5 * stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)
    found = stats.bootstrap(
        (values,),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=1 - 2 * stats.norm.cdf(-reach),
        method="percentile",
        batch=100,
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def median_interval(values: Floats) -> Interval:
    """Return the interval of the median of (n,) values by order statistics, which is quick enough for every round.

    How many of n values lie below the median is binomial whatever their distribution, so nothing is assumed about
    the noise. Of fewer than 6 values it is the smallest and the largest, and less than 95 %.
    """
    reach = Z / 2 / len(values) ** 0.5
    shares = [max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)]
    low, high = np.quantile(values, shares, method="weibull")
    return float(low), float(high)
