"""Tables of real networks: what a chain made of each, and how that compares with what others have published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from experiments import Run
from means import mean_of
from networks import NETWORKS, PUBLISHED, SHOWN, Shown
from results import Result
from tabulate import tabulate

from toolkit.number_text import bytes_text

RUNTIMES = {"onnxruntime": "ONNX Runtime", None: "PyTorch"}


def networks_table(results: Sequence[Result]) -> str:
    """Return what every chain that has been run made of its network, as Markdown."""
    headers = ["network", "what it does", "recipe", "MACs", "smaller", "faster", "right before", "right after", "lost"]
    rows = [_line(shown, label, runs) for shown, label, runs in _shown(results)]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def among_published(results: Sequence[Result]) -> str:
    """Return the published results of pruned ResNet-56 and ours, those that lose least first, as Markdown."""
    theirs = [(each.after - each.before, each.method, each.before, each.after, each.times) for each in PUBLISHED]
    ours = [
        (after - before, f"**`{shown.recipe}`{_of(label, runs)}, on JPEGs**", before, after, _times_fewer(shown, runs))
        for shown, label, runs in _shown(results)
        if shown == SHOWN[0]
        for before, after in [(_right(runs, "baseline"), _right(runs, shown.macs_of))]
    ]
    lines = [
        [method, f"{before:.2f}", f"{after:.2f}", f"{change:+.2f}", f"{times:.2f}"]
        for change, method, before, after, times in sorted([*theirs, *ours], reverse=True)
    ]
    headers = ["method", "% right before", "after", "change", "times fewer MACs"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _shown(results: Sequence[Result]) -> Iterator[tuple[Shown, str, list[Result]]]:
    """Every line of the table that there are results for, with the label of its variation and its runs."""
    for shown in SHOWN:
        experiment = next(each for each in NETWORKS if each.recipe == shown.recipe)
        for label in experiment.variations:
            if runs := [run for run in results if (run.recipe, run.variation) == (shown.recipe, label)]:
                yield shown, label, runs


def _line(shown: Shown, label: str, runs: Sequence[Result]) -> list[str]:
    before, after = _right(runs, shown.begin), _right(runs, shown.end)
    sizes = [_size(runs, stage) for stage in (shown.begin, shown.end)]
    return [
        shown.network,
        shown.does,
        f"`{shown.recipe}`{_of(label, runs)}",
        f"{_times_fewer(shown, runs):.2f}× fewer",
        f"{sizes[0] / sizes[1]:.1f}× ({bytes_text(round(sizes[1]))})",
        _faster(shown, runs[0]),
        f"{before:.2f} %",
        f"{after:.2f} %",
        f"{before - after:+.2f} points",
    ]


def _of(label: str, runs: Sequence[Result]) -> str:
    seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
    return f" ({', '.join(filter(None, (label, seeds)))})"


def _right(runs: Sequence[Result], stage: str) -> float:
    def percent(rows: Run) -> float:
        return 100 - 100 * rows[stage]["errors"] / rows[stage]["samples"]

    return mean_of(runs, percent).value


def _size(runs: Sequence[Result], stage: str) -> float:
    return mean_of(runs, lambda rows: rows[stage]["size_bytes"]).value


def _times_fewer(shown: Shown, runs: Sequence[Result]) -> float:
    macs = [run.speeds["baseline"]["macs"] / run.speeds[shown.macs_of]["macs"] for run in runs]
    return sum(macs) / len(macs)


def _faster(shown: Shown, run: Result) -> str:
    """How many times faster, from the ratios of both to the baseline: within the farthest ends of their intervals."""
    begin, end = (_ratios(run, stage) for stage in (shown.begin, shown.end))
    told = [_times(size, begin[size], end[size]) for size in end if size in begin]
    runtime = RUNTIMES.get(run.speeds[shown.end]["runtime"], run.speeds[shown.end]["runtime"])
    return f"{', '.join(told)} in {runtime} on {run.processor}" if told else "not measured"


def _times(batch_size: str, before: Sequence[float], after: Sequence[float]) -> str:
    ratio, low, high = before[0] / after[0], before[1] / after[2], before[2] / after[1]
    return f"{ratio:.1f}× ({low:.1f} to {high:.1f}) at batch {batch_size}"


def _ratios(run: Result, stage: str) -> dict[str, Any]:
    return run.speeds[stage]["latency_ratio"]
