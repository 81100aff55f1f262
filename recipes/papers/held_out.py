"""MNIST without its test split, for choosing hyper-parameters: 5,000 digits of train take its place."""

from __future__ import annotations

from dataclasses import replace

from toolkit import Data
from toolkit.data.built_in import with_validation
from toolkit.data.mnist import mnist as complete


def mnist(samples: int | None = None) -> Data:
    """55,000 digits to train on and 5,000 others to measure on; the 10,000 of the test split are not looked at."""
    data = with_validation(complete(samples), min(5_000, (samples or 60_000) // 10))
    return replace(data, validation=None, test=data.validation)
