"""Fashion-MNIST, CIFAR-10 and CIFAR-100, downloaded once by torchvision into the user's cache directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets

from toolkit.data.cache_folder import cache_folder
from toolkit.data.images import Standardized
from toolkit.data.sample_count import require_count
from toolkit.data.splits import Data
from toolkit.errors import InputError, described


@dataclass(frozen=True)
class DownloadedDataset:
    """A torchvision dataset: its class, the location of its files, and the statistics of its pixels."""

    title: str
    make: Callable[..., Any]
    folder: str
    files: tuple[str, ...]
    url: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def load(self, samples: int | None) -> Data:
        """Load the first `samples` of train and of test; all if None."""
        require_count(self.title, samples)
        root = cache_folder() / "datasets"
        try:
            splits = [self.make(str(root), train=train, download=True) for train in (True, False)]
        except Exception as error:  # the network, archives and pickles raise many classes
            raise InputError(self._failure(root, error)) from error
        train, test = ((_pixels(split, samples), _targets(split, samples)) for split in splits)
        convert = Standardized(self.mean, self.std)
        return Data(train=train, test=test, convert=convert, preparation=convert.description)

    def _failure(self, root: Path, error: Exception) -> str:
        return (
            f"cannot download {self.title} into {root} ({described(error)}); put {', '.join(self.files)} from "
            f"{self.url} into {root / self.folder}, or set TOOLKIT_CACHE to a folder that contains it in datasets/"
        )


def _pixels(split: Any, samples: int | None) -> torch.Tensor:
    """Return the images of a split: (N, C, H, W) uint8."""
    pixels = torch.as_tensor(split.data[:samples])
    return pixels.unsqueeze(1).clone() if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _targets(split: Any, samples: int | None) -> torch.Tensor:
    return torch.as_tensor(split.targets[:samples]).clone()


FASHION = DownloadedDataset(
    "Fashion-MNIST",
    datasets.FashionMNIST,
    "FashionMNIST/raw",
    tuple(
        f"{name}-ubyte.gz"
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    ),
    "https://github.com/zalandoresearch/fashion-mnist",
    (0.2860,),
    (0.3530,),
)
CIFAR10 = DownloadedDataset(
    "CIFAR-10",
    datasets.CIFAR10,
    "",
    (datasets.CIFAR10.filename,),
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    (0.4914, 0.4822, 0.4465),
    (0.2470, 0.2435, 0.2616),
)
CIFAR100 = DownloadedDataset(
    "CIFAR-100",
    datasets.CIFAR100,
    "",
    (datasets.CIFAR100.filename,),
    CIFAR10.url,
    (0.5071, 0.4865, 0.4409),
    (0.2673, 0.2564, 0.2762),
)


def fashion_mnist(samples: int | None = None) -> Data:
    """Load 60,000 and 10,000 images of clothing: inputs (N, 1, 28, 28) float32, standardized; targets (N,) int64.

    `samples` limits train and test to their first samples. Xiao, Rasul and Vollgraf, 2017.
    """
    return FASHION.load(samples)


def cifar10(samples: int | None = None) -> Data:
    """Load 50,000 and 10,000 photos of 10 classes: inputs (N, 3, 32, 32) float32, standardized; targets (N,) int64.

    `samples` limits train and test to their first samples. Krizhevsky, 2009.
    """
    return CIFAR10.load(samples)


def cifar100(samples: int | None = None) -> Data:
    """Load 50,000 and 10,000 photos of 100 classes: inputs (N, 3, 32, 32) float32, standardized; targets (N,) int64.

    `samples` limits train and test to their first samples. Krizhevsky, 2009.
    """
    return CIFAR100.load(samples)
