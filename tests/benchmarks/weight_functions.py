"""Time of a training step in which the network sees its weights through functions, against a plain step.

Medians of interleaved steps in ms, one thread, two cores that other processes kept busy (so that the last two rows
are good to about 10 %). "identity" is the mechanism alone, "rounded" rounds every matrix straight through, "masked" has
a mask on every matrix.

                                plain   identity   rounded   masked   masked, rounded
    MLP 64-32-4, batch 64        0.24       0.32      0.35     0.28              0.45
    LeNet-5, batch 128          49.5       49.8      51.0     48.5              51.3
    LSTM 3 x 256, 16 x 50        100        113       118      111               131

Entering and leaving the functions alone takes 59 µs a step for LeNet-5 (4 matrices), and 0.4 ms for ResNet-18 (21).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit.models import lenet5
from toolkit.tasks import Batch, Classification
from toolkit.testing import toy_mlp
from toolkit.training import Training, TrainingSettings
from toolkit.training.step import Stepper


class Speech(nn.Module):
    """Three LSTM layers of 256, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.leave = nn.LSTM(40, 256, num_layers=3, batch_first=True), nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.leave(self.lstm(inputs)[0][:, -1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 64-32-4, batch 64": (toy_mlp, (64, 1, 8, 8)),
    "LeNet-5, batch 128": (lenet5, (128, 1, 28, 28)),
    "LSTM 3 x 256, batch 16 x 50": (Speech, (16, 50, 40)),
}
KINDS = ("plain", "identity", "rounded", "masked", "masked, rounded")


def identity(weight: Tensor) -> Tensor:
    return weight.view_as(weight)


def rounded(weight: Tensor) -> Tensor:
    return weight + (torch.round(weight * 16) / 16 - weight).detach()


def stepper(make: Callable[[], nn.Module], kind: str) -> Stepper:
    """A training of one of the kinds that is ready for its first step."""
    model = make()
    weights = {id(weight.parameter): weight.path for weight in masks.named_weights(model) if weight.value.dim() > 1}
    if "masked" in kind:
        masks.apply(model, {path: torch.rand_like(model.get_parameter(path)) > 0.5 for path in weights.values()})
    training = Training(TrainingSettings(), Classification().loss)
    if kind == "identity" or "rounded" in kind:
        function = identity if kind == "identity" else rounded
        training = training.using(weights=dict.fromkeys(weights.values(), function))
    made = Stepper(model.train(), training, Classification())
    made.schedule_for(10**6)
    return made


def main() -> None:
    """Print a line a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="Seconds per network.")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    for name, (make, shape) in NETWORKS.items():
        batch = Batch(torch.randn(*shape), torch.randint(4, shape[:1]), torch.arange(shape[0]))
        steppers = {kind: stepper(make, kind) for kind in KINDS}
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for kind, each in steppers.items():
                started = time.perf_counter()
                each.step(batch)
                times[kind].append(1000 * (time.perf_counter() - started))
        medians = "  ".join(f"{kind} {statistics.median(values):.3f}" for kind, values in times.items())
        print(f"{name} ({len(times['plain'])} rounds): {medians}")


if __name__ == "__main__":
    main()
