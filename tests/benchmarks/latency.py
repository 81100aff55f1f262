"""How far latency ratios can be trusted here: between two copies of one model, and from process to process.

`python tests/benchmarks/latency.py [batch size …]` times two copies of LeNet-5 for real 20 times and prints how often
the 95 % interval of their ratio contains 1; then it times a LeNet-5 of half the width against the whole one in fresh
processes, and prints how far their ratios lie apart, next to the width of the intervals.
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.metrics import timings
from toolkit.models import lenet5

REPEATS, PROCESSES, BUDGET_S = 20, 6, 3.0


def data() -> Data:
    """Random images of MNIST's shape."""
    split = torch.rand(256, 1, 28, 28), torch.zeros(256, dtype=torch.int64)
    return Data(train=split, test=split)


def copies(size: int) -> None:
    """Two copies of one model against each other."""
    model = lenet5().eval()
    samples, inside, widths = data(), 0, []
    for _ in range(REPEATS):
        timing = timings(model, masks.clone(model), samples, [size], BUDGET_S)[size]
        low, high = timing.ratio_interval
        inside += low <= 1 <= high
        widths.append(high - low)
    widths.sort()
    print(f"batch {size}: the interval contains 1 in {inside} of {REPEATS}; median width {widths[REPEATS // 2]:.3f}")


def half(size: int) -> list[float]:
    """The ratio of half the width against the whole, and its interval."""
    timing = timings(lenet5(width=0.5).eval(), lenet5().eval(), data(), [size], BUDGET_S)[size]
    return [timing.ratio, *timing.ratio_interval]


def processes(size: int) -> None:
    """The same two models, in one fresh process after another."""
    found = []
    for _ in range(PROCESSES):
        command = [sys.executable, __file__, "--half", str(size)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    ratios = sorted(ratio for ratio, *_ in found)
    middle = ratios[PROCESSES // 2]
    apart = (ratios[-1] - ratios[0]) / middle
    inside = max((high - low) / ratio for ratio, low, high in found)
    print(f"batch {size}: {PROCESSES} processes find {ratios[0]:.3f} to {ratios[-1]:.3f}, {apart:.1%} apart; ", end="")
    print(f"their intervals are up to {inside:.1%} wide")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--half"]:
        print(json.dumps(half(int(sys.argv[2]))))
    else:
        for batch_size in [int(argument) for argument in sys.argv[1:]] or [1, 128]:
            copies(batch_size)
            processes(batch_size)
