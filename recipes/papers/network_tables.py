"""Tables of real networks: what a chain made of each, and how that compares with what others have published."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from experiments import Run
from means import mean_of
from networks import PUBLISHED, SHOWN, Shown
from results import Result
from tabulate import tabulate

from toolkit.number_text import bytes_text

RUNTIMES = {"onnxruntime": "ONNX Runtime", None: "PyTorch"}


def networks_table(results: Sequence[Result]) -> str:
    """Return what every chain that has been run made of its network, as Markdown, and where it was timed."""
    headers = ["network", "task", "recipe", "smaller", "faster", "points lost"]
    shown = list(_shown(results))
    lines = tabulate([_line(*each) for each in shown], headers, tablefmt="github", disable_numparse=True)
    processors = sorted({run.processor for _, runs in shown for run in runs})
    return f"{lines}\n\nTimed on {' and '.join(processors)}, one thread." if shown else ""


def among_published(results: Sequence[Result]) -> str:
    """Return the published results of pruned ResNet-56 and ours, those that lose least first, as Markdown."""
    theirs = [(each.after - each.before, each.method, each.before, each.after, each.times) for each in PUBLISHED]
    ours = [
        (after - before, f"**`{shown.recipe}`{_of(runs)}, on JPEGs**", before, after, _times_fewer(shown, runs))
        for shown, runs in _shown(results)
        if shown == SHOWN[0]
        for before, after in [(_right(runs, "baseline"), _right(runs, shown.macs_of))]
    ]
    lines = [
        [method, f"{before:.2f}", f"{after:.2f}", f"{change:+.2f}", f"{times:.2f}"]
        for change, method, before, after, times in sorted([*theirs, *ours], reverse=True)
    ]
    headers = ["method", "% right before", "after", "change", "times fewer MACs"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _shown(results: Sequence[Result]) -> Iterator[tuple[Shown, list[Result]]]:
    """Every line of the table that there are results for, with its runs."""
    for shown in SHOWN:
        if runs := [run for run in results if run.recipe == shown.recipe]:
            yield shown, runs


def _line(shown: Shown, runs: Sequence[Result]) -> list[str]:
    sizes = [_size(runs, stage) for stage in (shown.begin, shown.end)]
    smaller = f"{sizes[0] / sizes[1]:.1f}× ({bytes_text(round(sizes[0]))} → {bytes_text(round(sizes[1]))})"
    return [
        shown.network,
        shown.task,
        f"`{shown.recipe}`{_of(runs)}",
        smaller,
        _faster(shown, runs[0]),
        _lost(shown, runs),
    ]


def _of(runs: Sequence[Result]) -> str:
    return f" ({len(runs)} seeds)" if len(runs) > 1 else ""


def _lost(shown: Shown, runs: Sequence[Result]) -> str:
    """How many points are lost: with the interval over the seeds, or that of one run over its samples."""
    before, after = _right(runs, shown.begin), _right(runs, shown.end)
    lost = mean_of(runs, lambda rows: _percent(rows, shown.begin) - _percent(rows, shown.end))
    low, high = (runs[0].rows[shown.end].get(f"change_{end}", math.nan) for end in ("low", "high"))
    margin = 50 * (high - low) if len(runs) == 1 else lost.margin
    told = f"{lost.value:.2f}" if math.isnan(margin) else f"{lost.value:.2f} ± {margin:.2f}"
    return f"{told} ({before:.1f} → {after:.1f} %)"


def _right(runs: Sequence[Result], stage: str) -> float:
    return mean_of(runs, lambda rows: _percent(rows, stage)).value


def _percent(rows: Run, stage: str) -> float:
    return 100 - 100 * rows[stage]["errors"] / rows[stage]["samples"]


def _size(runs: Sequence[Result], stage: str) -> float:
    return mean_of(runs, lambda rows: rows[stage]["size_bytes"]).value


def _times_fewer(shown: Shown, runs: Sequence[Result]) -> float:
    macs = [run.speeds["baseline"]["macs"] / run.speeds[shown.macs_of]["macs"] for run in runs]
    return sum(macs) / len(macs)


def _faster(shown: Shown, run: Result) -> str:
    """How many times faster by batch size, in the runtime of the row, with the runtime's name."""
    speeds = run.speeds[shown.end]
    ratios = speeds["runtime_ratio"] or (speeds["latency_ratio"] if shown.begin == "baseline" else {})
    if not ratios:
        return "not measured"
    told = [f"{1 / ratio:.1f}× ({1 / high:.1f}–{1 / low:.1f}) @{size}" for size, (ratio, low, high) in ratios.items()]
    return f"{', '.join(told)}, {RUNTIMES.get(speeds['runtime'], speeds['runtime'])}"
