"""Mean and standard deviation of the pixels of a data source, by which images are standardized."""

from __future__ import annotations

from dataclasses import replace

import torch

from toolkit.data.splits import Data

# Of the pixels of ImageNet, which published weights expect.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_IMAGES = 1_000
MAX_PIXEL = 255
DECIMALS = 4


def pixel_statistics(data: Data) -> tuple[list[float], list[float], int]:
    """Return mean and standard deviation of each channel, for pixels in [0, 1], and the number of images used.

    Args:
        data: its train split has images (C, H, W) uint8; of many, `MAX_IMAGES` spread over the split are used.
    """
    count = min(MAX_IMAGES, data.samples("train"))
    order = torch.linspace(0, data.samples("train") - 1, count, dtype=torch.float64).long()
    batches = replace(data, convert=None).batches("train", order=order)
    moments = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        pixels = batch.inputs.double().cpu() / MAX_PIXEL
        sums = [(pixels**power).mean(dim=(2, 3)).sum(dim=0) for power in (1, 2)]
        moments = moments.view(2, -1) + torch.stack(sums)
    mean, square = moments / count
    # Images of a single color would be divided by zero.
    std = (square - mean**2).clamp(min=0).sqrt().clamp(min=1 / MAX_PIXEL)
    return _rounded(mean), _rounded(std), count


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, DECIMALS) for value in values.tolist()]
