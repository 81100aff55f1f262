"""Asks `channels` for a share of the time of a call, and times what is left again: one thread, random weights.

    python tests/benchmarks/latency_target.py [--shares 0.3 0.5] [--checks 3] [--processor-time] [NETWORK ...]

The stage times up to nine cuts and keeps one. Then the network that is left is timed anew, as often as `--checks` says,
each time next to the uncut one, both in new places in memory and with ONNX Runtime in a new process. "Met" compares the
median of these ratios with the time that was asked for. With `--processor-time` the clock stops while other processes
have the core, so that the search can be judged on a busy machine, too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import toolkit_channels as channels
import torch
import torchvision
from tabulate import tabulate
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit.exports import worker
from toolkit.metrics.support import stopwatch
from toolkit.models import lenet5
from toolkit.recipe.read import Recipe, parse_recipe
from toolkit.runner.stage_timer import stage_timer
from toolkit.timing import TimeRatio

ALLOWED = 0.10
RECIPE = """
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 1 }
[data]
source = "toolkit.testing:toy_data"
[[stages]]
technique = "channels"
"""
RUNTIMES = {"PyTorch": "", "onnxruntime": '[[exports]]\nruntime = "onnxruntime"\n'}


class Sequences(nn.Module):
    """Two LSTM layers in both directions over 40 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0].mean(1))


def pictures(*shape: int) -> toolkit.Data:
    inputs = torch.randn(64, *shape)
    return toolkit.Data(train=(inputs, torch.arange(64) % 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-5": (lenet5, (1, 28, 28)),
    "ResNet-18 at 64": (partial(torchvision.models.resnet18, num_classes=10), (3, 64, 64)),
    "MobileNetV2 at 64": (partial(torchvision.models.mobilenet_v2, num_classes=10), (3, 64, 64)),
    "LSTM": (Sequences, (40, 40)),
}


def count_processor_time() -> None:
    """Time calls of PyTorch, and those in the process of a file, by the seconds that one thread had the processor."""
    clock = SimpleNamespace(perf_counter=time.thread_time)
    vars(stopwatch)["time"] = clock
    copy = Path(tempfile.mkdtemp()) / "worker.py"
    copy.write_text(Path(worker.__file__).read_text().replace("time.perf_counter()", "time.process_time()"))
    worker.__file__ = str(copy)


def told(ratio: TimeRatio) -> str:
    return f"{ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def row(name: str, runtime: str, share: float, checks: int) -> list[object]:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, data = make().eval(), pictures(*shape)
    recipe: Recipe = parse_recipe(RECIPE + RUNTIMES[runtime], "recipe", Path())
    params = channels.Params(amount=share, of="latency_ms")
    started = time.perf_counter()
    findings = channels.prepare(timer=stage_timer(recipe, recipe.stages[0], model, data))
    cut = channels.optimize(model=masks.clone(model), params=params, data=data, prepared=findings)
    seconds = time.perf_counter() - started
    assert findings.by_time is not None
    probes = findings.by_time.probes
    again = []
    for _ in range(checks):
        timer = stage_timer(recipe, recipe.stages[0], masks.clone(model), data)
        again.append(timer.ratio(masks.clone(cut)))
    error = median(ratio.ratio for ratio in again) / (1 - share) - 1
    return [
        *(name, runtime, f"{1 - share:.2f}", f"{probes[-1].removed:.1%}", len(probes), round(seconds)),
        told(findings.by_time.time),
        "; ".join(map(told, again)),
        f"{error:+.1%}",
        "yes" if abs(error) <= ALLOWED else "no",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.3, 0.5])
    parser.add_argument("--checks", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.processor_time:
        count_processor_time()
    heads = ["network", "in", "asked", "MACs gone", "cuts timed", "s", "the stage says", "anew", "off", "met"]
    rows = []
    for name in asked.networks:
        for runtime in RUNTIMES:
            for share in asked.shares:
                try:
                    rows.append(row(name, runtime, share, asked.checks))
                except toolkit.TechniqueError as error:
                    rows.append([name, runtime, f"{1 - share:.2f}", *[""] * 6, str(error)])
                print(*rows[-1], sep=" | ", flush=True)
    print(tabulate(rows, heads, disable_numparse=True))


if __name__ == "__main__":
    main()
