"""The samples of the train split that a quantization looks at."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from toolkit import Batch, Data, TechniqueError


def calibration_batches(data: Data, samples: int) -> Iterable[Batch]:
    """Return batches of so many samples of the train split, spread evenly over it; the same ones in every call.

    Raises:
        TechniqueError: there are none.
    """
    count = data.samples("train")
    if not count:
        raise TechniqueError("the train split has no samples to calibrate on; add some")
    order = torch.linspace(0, count - 1, min(samples, count), dtype=torch.float64).long()
    return data.batches("train", order=order)
