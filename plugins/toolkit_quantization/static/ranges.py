"""The range of a tensor's values, from all of them or from their histogram: tensors in, tensors out."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from toolkit_quantization.static.affine import affine, fake_quantize

Method = Literal["minmax", "percentile", "mse"]
BINS = 2048
PERCENTILE = 99.99  # of all values lie within the range
CANDIDATES = 100  # ranges that are tried, from a hundredth of the whole range to all of it


class Histogram(NamedTuple):
    """How many values lie in each of the bins of equal width between `low` and `high`, both (); counts (bins,)."""

    counts: Tensor
    low: Tensor
    high: Tensor

    @property
    def centers(self) -> Tensor:
        """The middle of each bin, (bins,)."""
        bins = len(self.counts)
        places = (torch.arange(bins, dtype=torch.float64, device=self.counts.device) + 0.5) / bins
        return torch.lerp(self.low.double(), self.high.double(), places)


def histogram(values: Tensor, low: Tensor, high: Tensor, bins: int = BINS) -> Histogram:
    """Return the histogram of values that lie between `low` and `high`."""
    width = ((high - low) / bins).clamp(min=torch.finfo(torch.float32).tiny)
    index = ((values.detach().flatten() - low) / width).long().clamp_(0, bins - 1)
    return Histogram(index.bincount(minlength=bins).double(), low, high)


def percentile_range(seen: Histogram, percentile: float = PERCENTILE) -> tuple[Tensor, Tensor]:
    """Return the range that leaves out as many values at each end, all but `percentile` of them together."""
    shares = seen.counts.cumsum(0) / seen.counts.sum()
    beyond = (1 - percentile / 100) / 2
    first = int((shares > beyond).nonzero()[0])
    last = int((shares >= 1 - beyond).nonzero()[0])
    edges = torch.linspace(0, 1, len(seen.counts) + 1, dtype=torch.float64, device=seen.counts.device)
    ends = torch.lerp(seen.low.double(), seen.high.double(), edges[[first, last + 1]])
    return ends[0].float(), ends[1].float()


def mse_range(seen: Histogram) -> tuple[Tensor, Tensor]:
    """Return the range, a fraction of the whole one, whose rounding has the smallest squared error."""
    centers = seen.centers.float()

    def error(share: float) -> float:
        rounded = fake_quantize(centers, *affine(seen.low * share, seen.high * share))
        return float((seen.counts * (rounded - centers).double().square()).sum())

    best = min((number / CANDIDATES for number in range(CANDIDATES, 0, -1)), key=error)
    return seen.low * best, seen.high * best
