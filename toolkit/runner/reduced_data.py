"""Data with few samples, for rehearsals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from toolkit.data.batches import take
from toolkit.data.splits import Data

SPLITS = ("train", "validation", "test")


def reduced(data: Data, samples: int) -> Data:
    """Return the data with at most `samples` samples per split, spread over the split, which may be sorted by class."""
    cut: dict[str, Any] = {
        name: take(data.split(name), _spread(data.samples(name), samples))
        for name in SPLITS
        if getattr(data, name) is not None
    }
    return replace(data, **cut)


def _spread(total: int, count: int) -> torch.Tensor:
    return torch.linspace(0, total - 1, min(total, count), dtype=torch.float64).long()
