"""Second moments of the inputs of a layer: the Hessian of the squared error of its outputs, up to a factor."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Sums over the inputs of a weight, in float64, for each group of rows that has inputs of its own."""

    def __init__(self, groups: int, inputs: int, device: torch.device) -> None:
        self.count = 0
        self.sum = torch.zeros(groups, inputs, dtype=torch.float64, device=device)
        self.products = torch.zeros(groups, inputs, inputs, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor) -> None:
        """Add inputs (groups, samples, inputs)."""
        self.count += inputs.shape[1]
        self.sum += inputs.sum(dim=1, dtype=torch.float64)
        self.products += inputs.transpose(1, 2) @ inputs

    @property
    def mean(self) -> Tensor:
        """The mean of the inputs, (groups, inputs)."""
        return self.sum / max(self.count, 1)

    def hessian(self, centered: bool) -> Tensor:
        """Return the mean of the products of inputs, (groups, inputs, inputs).

        With `centered`, of their differences from the mean: a bias makes up for whatever the mean input costs.
        """
        second = self.products / max(self.count, 1)
        return second - self.mean.unsqueeze(2) * self.mean.unsqueeze(1) if centered else second
