"""Intervals and tests for what is measured: pure functions of numbers. Every interval is a 95 % interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special  # `scipy.stats` has all of this, and takes half as long to import as torch

CONFIDENCE = 0.95
RESAMPLES = 999
FEWEST_RESAMPLED = 40
Z = float(special.ndtri(0.5 + CONFIDENCE / 2))
Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]


def share_interval(successes: int, samples: int) -> Interval:
    """Return the Wilson interval of a share, such as an accuracy (Wilson 1927)."""
    share, weight = successes / samples, Z**2 / samples
    center = (share + weight / 2) / (1 + weight)
    reach = float(np.sqrt(weight * (share * (1 - share) + weight / 4))) / (1 + weight)
    return (center - reach if successes else 0.0), (center + reach if successes < samples else 1.0)


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
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))


def mean_interval(values: Floats) -> Interval:
    """Return the interval of the mean of (N,) independent values, by Student's t; of one value, the value twice."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(special.stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * error
    return mean - reach, mean + reach


def bootstrap_median_interval(values: Floats) -> Interval:
    """Return the interval of the median of (n,) values, by percentiles of a seeded bootstrap (Efron 1979).

    The percentiles are expanded for small n (Hesterberg 2015). Of fewer than `FEWEST_RESAMPLED` values resampling
    covers too little nevertheless (91 % of 10), and order statistics are taken.
    """
    count = len(values)
    if count < FEWEST_RESAMPLED:
        return median_interval(values)
    reach = (count / (count - 1)) ** 0.5 * special.stdtrit(count - 1, 0.5 + CONFIDENCE / 2)
    tail = float(special.ndtr(-reach))
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    medians = [np.median(values[part], axis=-1) for part in np.array_split(drawn, 10)]  # each fits into the cache
    low, high = np.quantile(np.concatenate(medians), [tail, 1 - tail])
    return float(low), float(high)


def median_interval(values: Floats) -> Interval:
    """Return the interval of the median of (n,) values by order statistics, which is quick enough for every round.

    How many of n values lie below the median is binomial whatever their distribution, so nothing is assumed about
    the noise. Of fewer than 6 values it is the smallest and the largest, and less than 95 %.
    """
    reach = Z / 2 / len(values) ** 0.5
    shares = [max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)]
    low, high = np.quantile(values, shares, method="weibull")
    return float(low), float(high)
