"""What can be measured of any model, whatever technique made it.

One module is one metric. A module that defines `METRIC` is measured in every row; it brings the keys of its numbers,
their units, columns and explanations with it, and nothing else has to change: the table, the page, `report.json` and
`toolkit diff` read them from there. What only one technique can know belongs in its `measure` hook; what a right
answer is belongs in the data's `Task`. Models that techniques changed are read through `toolkit.masks` and
`toolkit.replacements` only, so that a metric is right for techniques that nobody has written yet.
"""

from toolkit.metrics.counts import counts
from toolkit.metrics.latency import Timing, latency, timings
from toolkit.metrics.macs import macs
from toolkit.metrics.memory import MemoryMeter
from toolkit.metrics.quality import Answers, answers, quality
from toolkit.metrics.support.registry import all_metrics, all_quantities

__all__ = [
    "Answers",
    "MemoryMeter",
    "Timing",
    "all_metrics",
    "all_quantities",
    "answers",
    "counts",
    "latency",
    "macs",
    "quality",
    "timings",
]
