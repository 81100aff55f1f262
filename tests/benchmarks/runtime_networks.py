"""The networks that `runtimes.py` compares, and what they are run on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.batch_norms import reestimate
from toolkit.data.splits import Data
from toolkit.models import lenet5

SAMPLES, IMAGES = 512, 128
REAL = Path(__file__).parents[2] / "recipes" / "real"  # networks with the weights of other packages
TRIPLETS = 150
CLASSES, RIDGE, SHARPNESS = 10, 0.1, 10.0  # of networks that are fitted


@dataclass(frozen=True)
class Network:
    """A network with what it is run on: `make` returns it, `draw` its samples (N, …).

    A network with random weights whose answers would be near ties `is_fitted` to classes of its samples.
    """

    make: Callable[[], nn.Module]
    draw: Callable[[], Tensor]
    batch_sizes: tuple[int, ...] = (1, 32)
    is_fitted: bool = False

    def ready(self) -> tuple[nn.Module, Tensor]:
        """Return the network in eval mode, and its samples."""
        model, samples = self.make().eval(), self.draw()
        if self.is_fitted:
            fit_last_layer(model, samples)
        return model, samples


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
    """A network of torchvision with random weights."""
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model


def pictures(size: int) -> Tensor:
    """Return pictures (N, 3, size, size) of `CLASSES` classes in turn: a smooth one for each, with noise."""
    smooth = nn.functional.interpolate(torch.randn(CLASSES, 3, 4, 4), size, mode="bilinear")
    return smooth[torch.arange(IMAGES) % CLASSES] + 0.3 * torch.randn(IMAGES, 3, size, size)


def fit_last_layer(model: nn.Module, samples: Tensor) -> None:
    """Let a network with random weights tell the classes of samples apart, by ridge regression of its last layer.

    Its answers are then as clear as those of a network that was trained; how fast it is does not depend on its weights.
    """
    labels = torch.arange(len(samples)) % CLASSES
    split = samples, labels
    reestimate(model, Data(train=split, test=split, batch_size=32))
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    inputs: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    for part in samples.split(32):
        model(part)
    hook.remove()
    features = torch.cat(inputs)
    centered, targets = features - features.mean(0), nn.functional.one_hot(labels).float()
    products = centered @ centered.T
    solved = torch.linalg.solve(products + RIDGE * products.diagonal().mean() * torch.eye(len(products)), targets)
    last.weight.zero_()[:CLASSES] = SHARPNESS * (centered.T @ (solved - solved.mean(0))).T
    last.bias.zero_()[:CLASSES] = -last.weight[:CLASSES] @ features.mean(0)


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


def noise(*shape: int) -> Callable[[], Tensor]:
    """Return a function that draws samples of a shape."""
    return lambda: torch.randn(SAMPLES, *shape)


def photos(name: str, size: int, batch_sizes: tuple[int, ...]) -> Network:
    """Return a network of torchvision for pictures of a size."""
    return Network(partial(vision, name), partial(pictures, size), batch_sizes, is_fitted=True)


NETWORKS = {
    "lenet5": Network(lenet5, noise(1, 28, 28)),
    "mlp": Network(mlp, noise(1, 28, 28)),
    "lstm": Network(Recurrent, noise(50, 40)),
    "crepe-tiny": Network(crepe, tones),
    "minilm": Network(minilm, paragraphs, (1, 8)),
    "resnet18-64": photos("resnet18", 64, (1, 32)),
    "mobilenet-64": photos("mobilenet_v2", 64, (1, 32)),
    "resnet18-224": photos("resnet18", 224, (1, 8)),
    "mobilenet-224": photos("mobilenet_v2", 224, (1, 8)),
}
