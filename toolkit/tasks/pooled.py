"""Metrics of a whole split that are no mean over its samples: token accuracy, F1, R², perplexity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pooled:
    """A metric that is computed from the means of several numbers of each sample.

    Args:
        parts: (N, K), the numbers of each sample.
        value: from their means over a split, (K,) float64, to the metric, a scalar; differentiable.
    """

    parts: Tensor
    value: Callable[[Tensor], Tensor]

    @classmethod
    def joined(cls, batches: Sequence[Pooled]) -> Pooled:
        """The metric over all batches together, its parts float64 on the CPU."""
        return cls(torch.cat([batch.parts.double().cpu() for batch in batches]), batches[0].value)

    def metric(self) -> Tensor:
        """The metric, a scalar float64."""
        return self.value(self.parts.double().cpu().mean(dim=0))

    def values(self) -> Tensor:
        """One value a sample, (N,) float64, with the metric as their mean.

        Its first-order share of each sample (the delta method), so that the interval of their mean is the metric's.
        """
        parts = self.parts.double().cpu()
        with torch.enable_grad():
            means = parts.mean(dim=0).requires_grad_()
            metric = self.value(means)
            (slope,) = torch.autograd.grad(metric, means)
        return metric.detach() + (parts - means.detach()) @ slope


def ratio(means: Tensor) -> Tensor:
    """What the first of two sums is of the second."""
    return means[0] / means[1]
