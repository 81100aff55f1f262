"""How fast the training loop is: against the shortest loop by hand, and against a DataLoader over transforms.

    python tests/benchmarks/training.py

Prints ratios of times measured in turn in one process; below 1 the toolkit is faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import MNIST

from toolkit.data.augmentation import affine
from toolkit.data.cache_folder import cache_folder
from toolkit.data.mnist import MEAN, STANDARD_DEVIATION, mnist
from toolkit.data.splits import Data
from toolkit.models import lenet5, lenet_300_100
from toolkit.training import Precision, Training, TrainingSettings, fit

SAMPLES, BATCH, ROUNDS = 12_800, 128, 7


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def by_toolkit(model: nn.Module, data: Data, precision: Precision = "float32") -> None:
    settings = TrainingSettings(epochs=1, schedule="constant", batch_size=BATCH, precision=precision)
    fit(model, Training(settings, data.task.loss), data)


def by_hand(model: nn.Module, data: Data) -> None:
    """The same arithmetic as `fit` in as few lines as possible: same layout, optimizer, order and loss."""
    assert isinstance(data.train, tuple)
    inputs, targets = data.train
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        model.to(memory_format=torch.channels_last)
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    model.train()
    for index in torch.randperm(len(targets)).split(BATCH):
        loss = F.cross_entropy(model(inputs[index]), targets[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.to(memory_format=torch.contiguous_format)


def by_loader(model: nn.Module) -> None:
    """What a tutorial shows: a DataLoader over torchvision's transforms, AdamW as it comes."""
    standardize = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STANDARD_DEVIATION,))])
    digits = Subset(MNIST(str(cache_folder()), train=True, transform=standardize), range(SAMPLES))
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    model.train()
    for inputs, targets in DataLoader(digits, batch_size=BATCH, shuffle=True):
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def ratios(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """Median, lowest and highest ratio of times over rounds in which both run in turn."""
    found = [seconds(ours) / seconds(theirs) for _ in range(ROUNDS + 1)][1:]
    return statistics.median(found), min(found), max(found)


def rows(name: str, model: nn.Module, data: Data) -> list[list[object]]:
    """The three comparisons for one model."""
    ours = partial(by_toolkit, model, data)
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "fit / shortest loop by hand": (ours, partial(by_hand, model, data)),
        "fit / DataLoader over transforms": (ours, partial(by_loader, model)),
        "fit in bfloat16 / fit in float32": (partial(by_toolkit, model, data, "bfloat16"), ours),
        "fit with augment = affine / without": (partial(by_toolkit, model, replace(data, augment=affine)), ours),
    }
    return [[name, title, *ratios(*pair)] for title, pair in pairs.items()]


def main() -> None:
    data = mnist(SAMPLES)
    models = {"lenet5": lenet5(), "lenet-300-100": lenet_300_100()}
    table = [row for name, model in models.items() for row in rows(name, model, data)]
    print(tabulate(table, headers=["model", "ratio of times", "median", "lowest", "highest"], floatfmt=".3f"))
    print(f"{SAMPLES:,} samples in batches of {BATCH}, {torch.get_num_threads()} threads, {ROUNDS} rounds")


if __name__ == "__main__":
    main()
