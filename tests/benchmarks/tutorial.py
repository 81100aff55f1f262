"""The chain as a tutorial would write it: DataLoader over transforms, Adam, torch's own pruning and quantization.

Trains a LeNet-5 (5 epochs), distils it into a half as wide one (5 epochs), prunes 80 % of that (2 epochs of
retraining) and quantizes it. `chain.py` runs this and `recipes/mnist.toml` as whole processes and compares them.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from toolkit.data.cache_folder import cache_folder
from toolkit.data.mnist import MEAN, STANDARD_DEVIATION
from toolkit.models import lenet5

TEMPERATURE, ALPHA = 4.0, 0.7


def loader(train: bool) -> DataLoader[tuple[Tensor, Tensor]]:
    standardize = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STANDARD_DEVIATION,))])
    digits = MNIST(str(cache_folder()), train=train, transform=standardize)
    return DataLoader(digits, batch_size=128, shuffle=train)


def train(model: nn.Module, epochs: int, teacher: nn.Module | None = None) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(epochs):
        for inputs, targets in loader(train=True):
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets)
            if teacher is not None:
                with torch.no_grad():
                    soft = F.softmax(teacher(inputs) / TEMPERATURE, dim=1)
                divergence = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=1), soft, reduction="batchmean")
                loss = (1 - ALPHA) * loss + ALPHA * TEMPERATURE**2 * divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        right = sum(int((model(inputs).argmax(1) == targets).sum()) for inputs, targets in loader(train=False))
    return right / 10_000


def size(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(model.state_dict(), path)
        return path.stat().st_size


def main() -> None:
    torch.manual_seed(0)
    teacher = lenet5()
    train(teacher, 5)
    print(f"baseline {accuracy(teacher)} {size(teacher)}")
    student = lenet5(width=0.5)
    train(student, 5, copy.deepcopy(teacher).eval())
    layers = [(module, "weight") for module in student.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.8)
    train(student, 2)
    for module, name in layers:
        prune.remove(module, name)
    warnings.simplefilter("ignore")
    quantized = torch.ao.quantization.quantize_dynamic(student.eval(), {nn.Linear}, dtype=torch.qint8)
    print(f"final {accuracy(quantized)} {size(quantized)}")


if __name__ == "__main__":
    main()
