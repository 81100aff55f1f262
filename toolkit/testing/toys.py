"""Models and data small enough to train in a blink, for the tests of techniques."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from toolkit.data.splits import Data
from toolkit.stored_names import stored_as

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


@stored_as("toolkit.TiedToy")
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


@stored_as("toolkit.LSTMToy")
class LSTMToy(nn.Module):
    """Reads a picture row by row and answers from the last state."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SIDE, hidden, batch_first=True)
        self.leave = nn.Linear(hidden, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.lstm(inputs.squeeze(1))
        return self.leave(states[:, -1])


@stored_as("toolkit.TransformerToy")
class TransformerToy(nn.Module):
    """One transformer block over a picture's rows, between two linear layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Linear(SIDE, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.leave = nn.Linear(SIDE * width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.leave(self.block(self.enter(inputs.squeeze(1))).flatten(1))


@stored_as("toolkit.OutputsToy")
class OutputsToy(nn.Module):
    """Two convolutions and a linear layer; returns a dictionary of `logits` (N, 4) and `features` (N, 8)."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2), nn.ReLU(), nn.Conv2d(channels, channels, 2), nn.ReLU()
        )
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        features = self.body(inputs).mean(dim=(2, 3))
        return {"logits": self.head(features), "features": features}


def toy_tied(hidden: int = 16) -> TiedToy:
    """Four linear layers, two of which share one weight."""
    return TiedToy(hidden)


def toy_lstm(hidden: int = 16) -> LSTMToy:
    """An LSTM and a linear layer."""
    return LSTMToy(hidden)


def toy_transformer(width: int = 16) -> TransformerToy:
    """A transformer block between two linear layers."""
    return TransformerToy(width)


def toy_outputs(channels: int = 8) -> OutputsToy:
    """A convolutional network that returns a dictionary, of which only `logits` is answered from."""
    return OutputsToy(channels)


TOY_MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": toy_mlp,
    "cnn": toy_cnn,
    "lstm": toy_lstm,
    "transformer": toy_transformer,
    "tied": toy_tied,
    "outputs": toy_outputs,
}
