"""Bytes of pictures as the inputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standardized:
    """Makes pictures (N, C, H, W) uint8 into float32 with the mean 0 and the standard deviation 1.

    `mean` and `std` are those of the pixels, scaled to [0, 1]: one number, or one for each channel.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, pixels: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(tuple(values), device=pixels.device).view(1, -1, 1, 1) for values in (self.mean, self.std)
        )
        return pixels.float().div_(255).sub_(mean).div_(std)
