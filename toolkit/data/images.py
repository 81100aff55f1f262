"""Conversion of image bytes to the inputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standardized:
    """A function from images (N, C, H, W) uint8 to float32 with mean 0 and standard deviation 1.

    Args:
        mean: mean of the pixels, scaled to [0, 1]: one value, or one per channel.
        std: standard deviation of the pixels, likewise.
    """

    mean: Sequence[float]
    std: Sequence[float]

    @property
    def description(self) -> str:
        """What becomes of the pixels, in words."""
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"pixels from 0 to 1, minus the mean ({mean}), divided by the standard deviation ({std}) of each channel"

    def __call__(self, pixels: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(tuple(values), device=pixels.device).view(1, -1, 1, 1) for values in (self.mean, self.std)
        )
        return pixels.float().div_(255).sub_(mean).div_(std)
