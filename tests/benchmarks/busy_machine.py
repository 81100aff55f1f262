"""How OpenMP's threads should wait, on a quiet machine and on a busy one: `python tests/benchmarks/busy_machine.py`.

Trains an MLP in processes with active and with passive waiting, with one thread less, and with what `toolkit run`
chooses; alone, and beside another process that trains the same. Prints the time of a step, and its ratio to the step
with active waiting beside the same process in the same round: the median, the lowest and the highest of the rounds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tabulate import tabulate

from toolkit.cli.busy_machine import SETTINGS, wait_passively_if_busy
from toolkit.cores import usable_cores

ROUNDS, WARM_UP_STEPS, TRAINING_S, BATCH = 3, 20, 2.0, 128
WAITING = {
    "active": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "active, one thread less": {"OMP_NUM_THREADS": str(max(1, usable_cores() - 1))},
    "chosen": {},
}
BESIDE = ("nothing", "active", "passive")


def main() -> None:
    """Measure in rounds, and print the ratios."""
    rounds = [one_round() for _ in range(ROUNDS)]
    lines = []
    for beside in BESIDE:
        for waiting in WAITING:
            step_ms = statistics.median(times[waiting, beside] for times in rounds)
            ratios = [times[waiting, beside] / times["active", beside] for times in rounds]
            lines.append([beside, waiting, step_ms, statistics.median(ratios), min(ratios), max(ratios)])
    print(tabulate(lines, ["beside", "waiting", "ms", "ratio to active", "lowest", "highest"], floatfmt=".2f"))
    print(f"{usable_cores()} cores, {ROUNDS} rounds")


def one_round() -> dict[tuple[str, str], float]:
    """Return the milliseconds of a step for each way of waiting, beside each process."""
    times = {}
    for beside in BESIDE:
        with companion(beside):
            for waiting in WAITING:
                with trainer(waiting, TRAINING_S) as process:
                    assert process.stdout is not None
                    process.stdout.readline()
                    times[waiting, beside] = float(process.stdout.readline())
    return times


@contextmanager
def companion(waiting: str) -> Iterator[None]:
    """Keep another process training inside."""
    if waiting == "nothing":
        yield
        return
    with trainer(waiting, 3600) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it trains
        yield


@contextmanager
def trainer(waiting: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Start a process that trains for so long, and end it."""
    kept = {name: value for name, value in os.environ.items() if name not in (*SETTINGS, "OMP_NUM_THREADS")}
    command = [sys.executable, __file__, waiting, str(seconds)]
    environment = {**kept, **WAITING[waiting]}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def train(waiting: str, seconds: float) -> None:
    """Print a line when the training is warm, and the milliseconds of a step at its end."""
    if waiting == "chosen":
        wait_passively_if_busy()
    import torch
    from torch import nn

    torch.set_num_threads(min(usable_cores(), torch.get_num_threads()))
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    inputs, targets = torch.randn(BATCH, 784), torch.randint(10, (BATCH,))
    durations: list[float] = []
    end = float("inf")
    while time.perf_counter() < end:
        started = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        durations.append(time.perf_counter() - started)
        if len(durations) == WARM_UP_STEPS:
            print("warm", flush=True)
            end = time.perf_counter() + seconds
    print(1e3 * statistics.fmean(durations[WARM_UP_STEPS:]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(sys.argv[1], float(sys.argv[2]))
    else:
        main()
