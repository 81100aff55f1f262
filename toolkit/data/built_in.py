"""The built-in data sources, and the validation split that is cut where a source brings none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from toolkit.data.batches import take
from toolkit.data.downloaded import cifar10, cifar100, fashion_mnist
from toolkit.data.folder import image_folder
from toolkit.data.mnist import mnist
from toolkit.data.splits import Data

DATASETS: dict[str, Callable[..., Data]] = {
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar-10": cifar10,
    "cifar-100": cifar100,
    "image-folder": image_folder,
}

LARGEST_DEFAULT_VALIDATION = 5_000


def with_validation(data: Data, samples: int | None) -> Data:
    """`data` with a validation split cut from train, unless it has one.

    `samples` is how many: None for a tenth of train, at most 5,000; 0 for no split. The permutation is fixed and
    does not depend on a recipe's seed, so that runs with several seeds decide on the same samples.
    """
    total = data.samples("train")
    if samples is None:
        samples = min(total // 10, LARGEST_DEFAULT_VALIDATION)
    if data.validation is not None or samples == 0:
        return data
    if samples >= total:
        raise ValueError(f"{samples} validation samples leave nothing of {total} to train on")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    held_out, kept = order[:samples].sort().values, order[samples:].sort().values
    return replace(data, train=take(data.train, kept), validation=take(data.train, held_out))
