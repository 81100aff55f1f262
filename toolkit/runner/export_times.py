"""Times of several files, taken in turn, and again as long as the machine is too busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from toolkit.exports.time_file import TimedFile
from toolkit.metrics.support.time_budget import MAX_BUDGETS
from toolkit.runner.spoilt_times import Times, replaced, spoilt_sizes

TimeFiles = Callable[..., Sequence[Times]]
"""Times `files` in turn, at `sizes` samples per call, within `budget_s` seconds."""


def timed_together(
    files: Sequence[TimedFile], timed: TimeFiles, sizes: Sequence[int], budget_s: float, baseline: Times
) -> list[Times]:
    """Return the times of each file; spoilt ones are taken again, in at most `MAX_BUDGETS` budgets.

    Args:
        files: opened, next to the baseline's.
        timed: takes their times.
        sizes: samples per call.
        budget_s: seconds for each file.
        baseline: the times of the baseline's row.
    """
    deadline = time.perf_counter() + MAX_BUDGETS * budget_s * len(files)
    times = list(timed(files, sizes=sizes, budget_s=budget_s * len(files)))
    while (spoilt := _spoilt(times, baseline)) and (left_s := deadline - time.perf_counter()) > 0:
        again = sorted({int(size) for of_file in spoilt.values() for size in of_file})
        share_s = min(budget_s * len(spoilt), left_s / MAX_BUDGETS)
        repeated = timed([files[place] for place in spoilt], sizes=again, budget_s=share_s)
        for (place, of_file), new in zip(spoilt.items(), repeated, strict=True):
            times[place] = replaced(times[place], new, of_file)
    return times


def _spoilt(times: Sequence[Times], baseline: Times) -> dict[int, set[str]]:
    """Return the spoilt batch sizes by the place of the file."""
    found = {place: spoilt_sizes(of_file, baseline) for place, of_file in enumerate(times)}
    return {place: sizes for place, sizes in found.items() if sizes}
