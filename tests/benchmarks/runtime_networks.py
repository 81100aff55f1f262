"""The networks that `runtimes.py` compares, and what they are run on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.models import lenet5

SAMPLES, IMAGES = 512, 128
REAL = Path(__file__).parents[2] / "recipes" / "real"  # networks with the weights of other packages
TRIPLETS = 150


@dataclass(frozen=True)
class Network:
    """A network with what it is run on: `make` returns it in eval mode, `draw` its samples (N, …)."""

    make: Callable[[], nn.Module]
    draw: Callable[[], Tensor]
    batch_sizes: tuple[int, ...] = (1, 32)


class Recurrent(nn.Module):
    """Three LSTM layers of 256 units over 40 features, and a linear layer on the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.leave = nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.leave(self.lstm(inputs)[0][:, -1])


class FromTokens(nn.Module):
    """A network that turns tokens (N, 3, L) and their mask into vectors, from tokens alone: which two are alike."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        vectors = self.network(tokens, (tokens != 0).long())
        return (vectors[:, :1] * vectors[:, 1:]).sum(dim=2)


def mlp() -> nn.Module:
    """The network of the paper on distillation."""
    layers = (nn.Linear(784, 1200), nn.ReLU(), nn.Linear(1200, 1200), nn.ReLU(), nn.Linear(1200, 10))
    return nn.Sequential(nn.Flatten(), *layers)


def vision(name: str) -> nn.Module:
    """A network of torchvision with random weights, whose batch norms know the statistics of noise."""
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(32, 3, 64, 64))
    return model


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2, which says to which of two paragraphs a third one is more similar."""
    sys.path.insert(0, str(REAL))
    import minilm_similarity

    return FromTokens(minilm_similarity.embedder())


def paragraphs() -> Tensor:
    """Return triplets of paragraphs as tokens (N, 3, L)."""
    import minilm_similarity

    texts = [text for triplet in minilm_similarity.triplets(TRIPLETS, 0) for text in triplet]
    return minilm_similarity.tokens(texts)["input_ids"].unflatten(0, (TRIPLETS, 3))


def crepe() -> nn.Module:
    """CREPE tiny, which hears the pitch of a sound."""
    sys.path.insert(0, str(REAL))
    import crepe_pitch

    return crepe_pitch.crepe("tiny")


def tones() -> Tensor:
    """Return tones in noise (N, 1024)."""
    import crepe_pitch

    return crepe_pitch.tones_in_noise(SAMPLES, 0, -20.0, 5.0)[0]


def noise(*shape: int, samples: int = SAMPLES) -> Callable[[], Tensor]:
    """Return a function that draws samples of a shape."""
    return lambda: torch.randn(samples, *shape)


NETWORKS = {
    "lenet5": Network(lenet5, noise(1, 28, 28)),
    "mlp": Network(mlp, noise(1, 28, 28)),
    "lstm": Network(Recurrent, noise(50, 40)),
    "crepe-tiny": Network(crepe, tones),
    "minilm": Network(minilm, paragraphs, (1, 8)),
    "resnet18-64": Network(partial(vision, "resnet18"), noise(3, 64, 64, samples=IMAGES)),
    "mobilenet-64": Network(partial(vision, "mobilenet_v2"), noise(3, 64, 64, samples=IMAGES)),
    "resnet18-224": Network(partial(vision, "resnet18"), noise(3, 224, 224, samples=IMAGES), (1, 8)),
    "mobilenet-224": Network(partial(vision, "mobilenet_v2"), noise(3, 224, 224, samples=IMAGES), (1, 8)),
}
