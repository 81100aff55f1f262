"""What can be measured of any model, whatever technique made it.

One module is one metric: a function that takes the model and, where it needs them, the data, changes neither,
and returns numbers with their units in their names. A metric that every row of a report should have gets a
module here, is exported below and called by the runner; what only one technique can know belongs into its
`measure` hook; what a right answer is, and anything else that a data set brings, into its `Task`. Models that
techniques changed are read through `toolkit.masks` and `toolkit.replacements` only, so that a metric is
right for techniques that nobody has written yet.
"""

from toolkit.metrics.counts import counts
from toolkit.metrics.latency import Timing, latency, timings
from toolkit.metrics.macs import macs
from toolkit.metrics.memory import MemoryMeter
from toolkit.metrics.quality import Answers, answers, quality

__all__ = ["Answers", "MemoryMeter", "Timing", "answers", "counts", "latency", "macs", "quality", "timings"]
