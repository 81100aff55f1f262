"""The built-in data sources."""

from __future__ import annotations

from collections.abc import Callable

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
