"""Metrics of any model, whatever techniques produced it.

A module of this package is one metric. It defines `METRIC`: a function that measures a `Subject` (a saved model, the
data, the baseline, and the answers of both), and a `Quantity` for each of its numbers. The terminal's table, the page,
Markdown, `report.json`, its checks and `toolkit diff` use this description, so that a new metric is one new file::

    from toolkit.metrics.support.metric import COUNT, EXACT, Metric, Quantity, Subject


    def depth(subject: Subject) -> dict[str, int]:
        return {"depth": sum(not list(module.children()) for module in subject.model.modules())}


    DEPTH = Quantity("depth", explanation="number of modules without children", title="depth",
                     better="lower", bounds=COUNT, comparison=EXACT)
    METRIC = Metric(depth, (DEPTH,))

Keys state the unit (`size_bytes`, `latency_ms`); fractions are between 0 and 1. A number that is not exact adds its
95 % interval as `<key>_interval`, a list of two numbers; a number that is not finite counts as not measured. The
function leaves the model unchanged, and returns the same exact numbers for the same model. It reads weights through
`toolkit.masks` and `toolkit.replacements`, so that the metric is correct for masked and replaced layers.

A terminal of 80 columns has room for about seven columns. Those with the highest `dispensable` are dropped first, and a
line below the table names them; a column with `dispensable=0` always stays, and those with 1 to 9, which the verdicts
speak of, continue in another table. The page and Markdown have all columns.

A number that only one technique has belongs in its `measure` hook, a property of a dataset in `[data] metrics`, and the
definition of a correct answer in a `Task`.
"""

from toolkit.metrics.counts import counts
from toolkit.metrics.latency import latency, timings
from toolkit.metrics.macs import macs
from toolkit.metrics.memory import MemoryMeter
from toolkit.metrics.quality import Answers, BatchAnswers, answers, answers_to_batch, joined_answers, quality
from toolkit.metrics.support.registry import all_metrics, all_quantities
from toolkit.metrics.support.rounds import Timing

__all__ = [
    "Answers",
    "BatchAnswers",
    "MemoryMeter",
    "Timing",
    "all_metrics",
    "all_quantities",
    "answers",
    "answers_to_batch",
    "counts",
    "joined_answers",
    "latency",
    "macs",
    "quality",
    "timings",
]
