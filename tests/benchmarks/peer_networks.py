"""The networks on which `channel_peers.py` compares tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from toolkit import Data, Source
from toolkit.data.augmentation import translation
from toolkit.data.folder import image_folder
from toolkit.data.mnist import mnist
from toolkit.data.validation_split import with_validation
from toolkit.training import TrainingSettings

HELD_OUT = 5_000
RESNET = Path(__file__).parents[2] / "recipes/cifar/resnet.py"


@dataclass(frozen=True)
class Network:
    """A network, how it is trained, and the layers that both tools leave alone."""

    name: str
    build: Callable[[], nn.Module]
    data: Data
    trained: TrainingSettings
    tuned: TrainingSettings
    trained_samples: int
    tuned_samples: int
    alone: tuple[str, ...]


def digits() -> Network:
    return Network(
        "LeNet-5, digits",
        Source(source="lenet5").build,
        with_validation(replace(mnist(), validation=None), HELD_OUT),
        TrainingSettings(epochs=4, lr=2e-3),
        TrainingSettings(epochs=2, lr=1e-3),
        20_000,
        20_000,
        ("fc2",),
    )


def photos(folder: str, weights: str) -> Network:
    """A ResNet-20; Torch-Pruning cannot cut its residual streams, whose shortcuts pad channels."""

    build = Source(source=f"{RESNET}:resnet20", weights=weights).build
    data = with_validation(replace(image_folder(folder, 32), validation=None), HELD_OUT)
    common: dict[str, Any] = {"optimizer": "sgd", "weight_decay": 5e-4, "schedule": "cosine", "precision": "auto"}
    streams = [name for name, _ in build().named_modules() if name.endswith("conv2")]
    return Network(
        "ResNet-20, photos",
        build,
        replace(data, augment=partial(translation, pixels=4, flip=True)),
        TrainingSettings(epochs=1, lr=0.01, **common),
        TrainingSettings(epochs=1, lr=0.02, **common),
        20_000,
        10_000,
        ("conv1", *streams, "linear"),
    )
