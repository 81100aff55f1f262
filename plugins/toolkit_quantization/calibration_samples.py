"""The samples of the train split that a quantization looks at."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from toolkit import Batch, Data, TechniqueError


def require_samples(data: Data) -> None:
    """Refuse data without samples to calibrate on.

    Raises:
        TechniqueError: the train split is empty.
    """
    if not data.samples("train"):
        raise TechniqueError("the train split has no samples to calibrate on; add some")


def calibration_batches(data: Data, samples: int) -> Iterable[Batch]:
    """Return batches of so many samples of the train split, spread evenly over it; the same ones in every call.

    Raises:
        TechniqueError: there are none.
    """
    require_samples(data)
    count = data.samples("train")
    order = torch.linspace(0, count - 1, min(samples, count), dtype=torch.float64).long()
    return data.batches("train", order=order)
