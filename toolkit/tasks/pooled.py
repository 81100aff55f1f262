"""Metrics of a whole split that are not means over its samples, such as token accuracy, F1, R² and perplexity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pooled:
    """A metric computed from the means of several values per sample.

    Args:
        parts: (N, K), the values of each sample.
        value: function from the means over a split, (K,) float64, to the metric, a scalar; it must be differentiable.
    """

    parts: Tensor
    value: Callable[[Tensor], Tensor]

    @classmethod
    def joined(cls, batches: Sequence[Pooled]) -> Pooled:
        """Return the metric over several batches, with float64 parts on the CPU."""
        return cls(torch.cat([batch.parts.double().cpu() for batch in batches]), batches[0].value)

    def metric(self) -> Tensor:
        """Return the metric, a float64 scalar."""
        return self.value(self.parts.double().cpu().mean(dim=0))

    def values(self) -> Tensor:
        """Return one value per sample, (N,) float64, whose mean is the metric.

        Each value is the sample's first-order contribution (the delta method), so a confidence interval of the mean is
        one of the metric.
        """
        parts = self.parts.double().cpu()
        with torch.enable_grad():
            means = parts.mean(dim=0).requires_grad_()
            metric = self.value(means)
            (slope,) = torch.autograd.grad(metric, means)
        return metric.detach() + (parts - means.detach()) @ slope


def ratio(means: Tensor) -> Tensor:
    """Return the first of two means divided by the second."""
    return means[0] / means[1]
