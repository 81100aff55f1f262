"""Whether intervals of latency ratios can be trusted on a busy machine.

`python tests/benchmarks/latency_intervals.py [batch size …]` times two copies of LeNet-5 for real, 100 times, next to a
process that keeps all cores busy in bursts. It prints how often the 95 % interval of their ratio contains 1; the target
is 90 of 100. Timings without an interval claim nothing, and are counted separately.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from toolkit import masks
from toolkit.cores import usable_cores
from toolkit.data.splits import Data
from toolkit.metrics import timings
from toolkit.models import lenet5

REPEATS, BUDGET_S, TARGET = 100, 1.0, 90
MEAN_BURST_S, MEAN_PAUSE_S = 0.05, 0.1  # of the other process, drawn from exponential distributions


def burn(seed: int) -> None:
    """Keep all cores busy in bursts, by products that run outside the interpreter's lock."""
    torch.set_num_threads(1)
    cores = usable_cores()
    for _ in range(cores - 1):
        threading.Thread(target=_bursts, args=(seed,), daemon=True).start()
    _bursts(seed)


def _bursts(seed: int) -> None:
    draw, matrix = random.Random(seed), torch.rand(256, 256)  # the same bursts on every core
    while True:
        end = time.perf_counter() + draw.expovariate(1 / MEAN_BURST_S)
        while time.perf_counter() < end:
            torch.mm(matrix, matrix)
        time.sleep(draw.expovariate(1 / MEAN_PAUSE_S))


@contextmanager
def busy_machine() -> Iterator[None]:
    """Another process that is busy in bursts, for the duration of the block."""
    process = multiprocessing.get_context("spawn").Process(target=burn, args=(random.randrange(1 << 30),), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def data() -> Data:
    """Random images of MNIST's shape."""
    split = torch.rand(256, 1, 28, 28), torch.zeros(256, dtype=torch.int64)
    return Data(train=split, test=split)


def coverage(size: int) -> None:
    """Print how many of the intervals contain 1."""
    samples, inside, unknown, widths, rounds = data(), 0, 0, [], []
    for _ in range(REPEATS):
        model = lenet5().eval()
        timing = timings(model, masks.clone(model), samples, [size], BUDGET_S)[size]
        rounds.append(len(timing.model))
        if not timing.has_ratio:
            unknown += 1
            continue
        low, high = timing.ratio_interval
        inside += low <= 1 <= high
        widths.append(high - low)
    counted = REPEATS - unknown
    print(
        f"batch {size}: {inside} of {counted} intervals contain 1 (target {TARGET} %), {unknown} have no interval; ",
        end="",
    )
    width = f"{statistics.median(widths):.3f}" if widths else "unknown"
    print(f"median width {width}, median rounds {statistics.median(rounds):g}", flush=True)


if __name__ == "__main__":
    with busy_machine():
        for batch_size in [int(argument) for argument in sys.argv[1:]] or [1, 128]:
            coverage(batch_size)
