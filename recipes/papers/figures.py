"""The figures: error against sparsity, error against bytes with the papers' points drawn in; as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
from experiments import EXPERIMENTS, Experiment, error_percent, number
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from means import mean_of, runs_of
from results import Result

from toolkit.report.charts.drawing import BAD, BASE, GOOD, INK, SERIES, new_axes, size_axis, style

COLOURS = {"gradual": SERIES, "ticket": SERIES, "one-shot": GOOD, "random": BAD, "dense": BASE}


class Published(NamedTuple):
    """A point of a paper."""

    label: str
    size_bytes: float
    error_percent: float


PUBLISHED = (
    Published("Deep Compression, LeNet-300-100", 27e3, 1.58),
    Published("Deep Compression, LeNet-5", 44e3, 0.74),
    Published("MIRACLE", 3.03e3, 0.69),  # Havasi et al. 2018, LeNet-5
    Published("MIRACLE, smaller", 1.52e3, 0.96),
)


def figures(results: Sequence[Result]) -> Iterator[tuple[str, str, Figure]]:
    """Name, what it shows, and the figure, of all that there are results for."""
    settings: Any = {"svg.hashsalt": "papers"}  # else two drawings of the same differ
    with style(), matplotlib.rc_context(settings):
        for experiment in EXPERIMENTS:
            if len(experiment.variations) > 1 and any(result.recipe == experiment.recipe for result in results):
                yield _against_sparsity(experiment, results)
        if any(_sized(experiment, results) for experiment in EXPERIMENTS):
            yield _against_bytes(results)


def _against_sparsity(experiment: Experiment, results: Sequence[Result]) -> tuple[str, str, Figure]:
    figure, axes = new_axes(3.2, "both")
    pruned = {label: runs for label in experiment.variations if (runs := runs_of(results, experiment, label))}
    stages = [stage for stage in next(iter(pruned.values()))[0].rows if stage in COLOURS]
    left = [100 * (1 - mean_of(runs, number(stages[-1], "sparsity")).value) for runs in pruned.values()]
    for stage in stages:
        means = [mean_of(runs, error_percent(stage)) for runs in pruned.values()]
        values, margins = [mean.value for mean in means], [mean.margin for mean in means]
        axes.errorbar(left, values, margins, color=COLOURS[stage], label=stage, capsize=2, linewidth=1.4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _mark(axes.xaxis, left)
    _mark(axes.yaxis, [1, 100])
    axes.invert_xaxis()
    axes.set_xlabel("% of the weights left")
    axes.set_ylabel("% of errors")
    axes.legend()
    name = experiment.recipe.rpartition("/")[2]
    return name, f"{name}: errors against the weights left, means and 95 % intervals over the seeds", figure


def _against_bytes(results: Sequence[Result]) -> tuple[str, str, Figure]:
    figure, axes = new_axes(3.4, "both")
    sizes = [point.size_bytes for point in PUBLISHED]
    for point in PUBLISHED:
        axes.plot(point.size_bytes, point.error_percent, "x", color=BAD)
        _label(axes, point.label, point.size_bytes, point.error_percent, above=True)
    for experiment in EXPERIMENTS:
        if stage := _sized(experiment, results):
            runs = runs_of(results, experiment)
            size, error = mean_of(runs, number(stage, "size_bytes")).value, mean_of(runs, error_percent(stage))
            margin = None if len(runs) < 2 else error.margin
            axes.errorbar(size, error.value, margin, fmt="o", color=SERIES, capsize=2)
            _label(axes, experiment.recipe.rpartition("/")[2], size, error.value, above=False)
            sizes.append(size)
    size_axis(axes, sizes)
    axes.set_xlim(right=8 * max(sizes))  # room for the labels
    axes.set_xlabel("size of the file, logarithmic; × published, ● ours")
    axes.set_ylabel("% of errors")
    axes.set_ylim(bottom=0)
    return "error-against-bytes", "errors against the bytes of the file", figure


def _label(axes: Axes, text: str, x: float, y: float, above: bool) -> None:
    """Beside a point; ours below and others above, since points of equal error are close to each other."""
    axes.annotate(text, (x, y), (6, 3 if above else -10), textcoords="offset points", fontsize=7, color=INK)


def _sized(experiment: Experiment, results: Sequence[Result]) -> str:
    """The last stage of a recipe that packs its model; empty of another one, or where there is no result."""
    runs = runs_of(results, experiment)
    return "codebook" if runs and "codebook" in runs[0].rows else ""


def _mark(axis: Any, values: Sequence[float]) -> None:
    """Mark a logarithmic axis at 1, 2 and 5 times the powers of ten, from the least to the largest of the values."""
    marks = [mark * 10.0**power for power in range(-2, 4) for mark in (1, 2, 5)]
    shown = [mark for mark in marks if 0.9 * min(values) <= mark <= 1.1 * max(values)]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
