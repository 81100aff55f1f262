"""Data without their test split, for choosing hyper-parameters: 5,000 training samples take its place."""

from __future__ import annotations

from dataclasses import replace

from toolkit import Data
from toolkit.data.folder import image_folder
from toolkit.data.mnist import mnist as complete
from toolkit.data.validation_split import with_validation


def mnist(samples: int | None = None) -> Data:
    """55,000 digits to train on and 5,000 others to measure on; the 10,000 of the test split are not looked at."""
    return _without_test(complete(samples), min(5_000, (samples or 60_000) // 10))


def photos(root: str, size: int) -> Data:
    """Training photos of a folder, a tenth of them, at most 5,000, to measure on; its test split is not looked at."""
    data = image_folder(root, size)
    return _without_test(data, min(5_000, data.samples("train") // 10))


def _without_test(data: Data, samples: int) -> Data:
    data = with_validation(replace(data, validation=None), samples)
    return replace(data, validation=None, test=data.validation)
