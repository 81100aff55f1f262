"""Means over seeds, with intervals, of what the runs of a recipe measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments import Experiment, Measure, Run
from results import Result
from scipy.stats import t


class Mean(NamedTuple):
    """A mean, the half width of its 95 % interval over the seeds by Student's t (nan of one seed), and its seeds."""

    value: float
    margin: float
    seeds: tuple[int, ...]


def mean_of(results: Sequence[Result], value: Callable[[Run], float]) -> Mean:
    """The mean of a number over results of different seeds."""
    values = [value(result.rows) for result in results]
    seeds = tuple(sorted(result.seed for result in results))
    if len(values) < 2:
        return Mean(values[0], float("nan"), seeds)
    width = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return Mean(statistics.fmean(values), width, seeds)


def runs_of(results: Sequence[Result], experiment: Experiment, variation: str = "") -> list[Result]:
    """The results of one variation of an experiment."""
    return [result for result in results if (result.recipe, result.variation) == (experiment.recipe, variation)]


def minutes_a_seed(results: Sequence[Result], experiment: Experiment) -> float:
    """The longest that all variations together took for one seed, each on one core."""
    taken: dict[int, float] = {}
    for result in results:
        if result.recipe == experiment.recipe:
            taken[result.seed] = taken.get(result.seed, 0.0) + result.minutes
    return max(taken.values())


def limit_of(measure: Measure) -> str:
    """What a mean has to reach, in words; empty if nothing."""
    if measure.most is not None:
        return f"≤ {measure.most:g}"
    return "" if measure.least is None else f"≥ {measure.least:g}"
