"""Models and data small enough to train in a blink, for the tests of techniques."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from toolkit.tasks import Data

CLASSES = 4
SIDE = 8


def toy_data(samples: int = 512, noise: float = 0.6) -> Data:
    """Noisy pictures of four patterns: inputs (N, 1, 8, 8) float32, targets (N,) int64; always the same ones."""
    generator = torch.Generator().manual_seed(20)
    patterns = torch.randn(CLASSES, 1, SIDE, SIDE, generator=generator)

    def split(count: int) -> tuple[Tensor, Tensor]:
        targets = torch.randint(CLASSES, (count,), generator=generator)
        noisy = patterns[targets] + noise * torch.randn(count, 1, SIDE, SIDE, generator=generator)
        return noisy, targets

    return Data(train=split(samples), validation=split(samples // 4), test=split(samples // 2), batch_size=64)


def toy_mlp(hidden: int = 32) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def toy_cnn(channels: int = 8) -> nn.Sequential:
    """Two convolutions with batch norm between, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * (SIDE // 2) ** 2, CLASSES),
    )


class TiedToy(nn.Module):
    """Two linear layers that share one weight, between two that do not."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.enter = nn.Linear(SIDE * SIDE, hidden)
        self.first = nn.Linear(hidden, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.second.weight = self.first.weight
        self.leave = nn.Linear(hidden, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.enter(inputs.flatten(1)))
        hidden = torch.relu(self.first(hidden))
        return self.leave(torch.relu(self.second(hidden)))


TOY_MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": toy_mlp, "cnn": toy_cnn, "tied": TiedToy}
