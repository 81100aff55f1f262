"""Latency of an exported file, relative to the baseline in PyTorch and to the baseline's file of the same runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.exports.process import OpenedFile
from toolkit.metrics.latency import latency_values
from toolkit.metrics.support.rounds import Timing
from toolkit.statistics import Floats, median_interval
from toolkit.tasks import Batch
from toolkit.timing import is_known, median_ratio, ratio_interval, take_turns

BLOCK_S = 0.01  # calls are timed together until they take this long
SETTLE_S = 0.02  # threads of PyTorch and of runtimes wait actively for some milliseconds after their last call
MIN_ROUNDS, MAX_ROUNDS = 10, 80
WIDTH = 0.03  # of the interval of the ratio, relative to the ratio: a narrower one ends the rounds


def file_latency(
    file: OpenedFile,
    baseline: nn.Module | None,
    baseline_file: OpenedFile | None,
    data: Data,
    sizes: Sequence[int],
    budget_s: float,
) -> dict[str, Any]:
    """Time an opened file alternately with the baseline in PyTorch and with the baseline's file of the same runtime.

    Args:
        file: the file, in its own process.
        baseline: the model that all ratios refer to, in eval mode on the CPU; None for the file itself.
        baseline_file: the baseline, exported to the same runtime; None if `file` is that.
        data: the task feeds batches of the first training samples.
        sizes: samples per call.
        budget_s: seconds for all sizes; at least `MIN_ROUNDS` rounds are timed.

    Returns:
        The keys of the metric `latency`, by batch size, and `runtime_ratio` with `runtime_ratio_interval`: the time of
        a call divided by that of the baseline's file. Ratios lack the sizes whose interval says nothing.
    """
    measured: dict[int, Timing] = {}
    values: dict[str, Any] = {}
    for size in sizes:
        batch = data.example(size)
        blocks = [_in_process(file, data, batch)]
        blocks += [] if baseline is None else [_in_torch(baseline, data, batch)]
        blocks += [] if baseline_file is None else [_in_process(baseline_file, data, batch)]
        deadline = time.perf_counter() + budget_s / len(sizes)
        columns = np.array(take_turns(blocks, partial(_enough, deadline)), dtype=np.float64).T
        measured[size] = Timing(columns[0], columns[0] if len(columns) == 1 else columns[1])
        if len(columns) > 2:
            for key, value in _runtime_ratio(columns[0], columns[2]).items():
                values.setdefault(key, {})[str(size)] = value
    return {**latency_values(measured), **values}


def times_in_turn(
    files: Mapping[str, OpenedFile], model: nn.Module, data: Data, size: int, budget_s: float
) -> list[Floats]:
    """Return the seconds of a call of the model in PyTorch and of each file, (rounds,) each, taken in turn.

    Args:
        files: in processes of their own.
        model: in eval mode on the CPU.
        data: the task feeds a batch of the first training samples.
        size: samples per call.
        budget_s: seconds; at least `MIN_ROUNDS` rounds are timed.
    """
    batch = data.example(size)
    blocks = [_in_torch(model, data, batch), *(_in_process(file, data, batch) for file in files.values())]
    deadline = time.perf_counter() + budget_s

    def enough(rounds: list[list[float]]) -> bool:
        return len(rounds) >= MIN_ROUNDS and (time.perf_counter() > deadline or len(rounds) >= MAX_ROUNDS)

    rounds = take_turns(blocks, enough)
    return list(np.array(rounds, dtype=np.float64).T)


def pair_in_turn(file: OpenedFile, other: OpenedFile, data: Data, size: int, budget_s: float) -> tuple[Floats, Floats]:
    """Return the seconds of a call of each of two files, (rounds,) each, until their ratio is known.

    Args:
        file: in a process of its own.
        other: in the same process.
        data: the task feeds a batch of the first training samples.
        size: samples per call.
        budget_s: seconds at most, once there were `MIN_ROUNDS`.
    """
    batch, deadline = data.example(size), time.perf_counter() + budget_s
    rounds = take_turns([_in_process(each, data, batch) for each in (file, other)], partial(_enough, deadline))
    first, second = np.array(rounds, dtype=np.float64).T
    return first, second


def _runtime_ratio(seconds: Floats, reference: Floats) -> dict[str, Any]:
    """Return the ratio to the baseline's file and its interval, nothing if the interval says nothing."""
    interval = ratio_interval(seconds, reference)
    if not is_known(interval):
        return {}
    return {"runtime_ratio": median_ratio(seconds, reference), "runtime_ratio_interval": list(interval)}


def _enough(deadline: float, rounds: list[list[float]]) -> bool:
    if len(rounds) < MIN_ROUNDS:
        return False
    if len(rounds) >= MAX_ROUNDS or time.perf_counter() >= deadline:
        return True
    if len(rounds[0]) == 1:
        return False
    ratios = np.array([row[0] / row[1] for row in rounds])
    low, high = median_interval(ratios)
    return bool(high - low < WIDTH / 2 * np.median(ratios))


def _in_torch(model: nn.Module, data: Data, batch: Batch) -> Callable[[], float]:
    def block(calls: int) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(calls):
                data.task.forward(model, batch)
        return time.perf_counter() - start

    return _per_call(block)


def _in_process(file: OpenedFile, data: Data, batch: Batch) -> Callable[[], float]:
    return _per_call(lambda calls: float(data.task.forward(_Timed(file, calls), batch)))


class _Timed(nn.Module):
    """Stands for the network in a task, and returns the seconds that its calls take."""

    def __init__(self, file: OpenedFile, calls: int) -> None:
        super().__init__()
        self._file, self._calls = [file], calls

    def forward(self, *args: Any, **kwargs: Any) -> float:
        return self._file[0].seconds(self._calls, *args, **kwargs)


def _per_call(block: Callable[[int], float]) -> Callable[[], float]:
    """Return a block of as many calls as take `BLOCK_S`, which returns the seconds of one of them.

    The turn before was another process's, or another thread pool's: its threads have stopped waiting and this one's
    are awake again before the clock starts.
    """
    block(2)  # the first calls allocate
    calls = max(1, min(1000, round(BLOCK_S / max(block(3) / 3, 1e-6))))

    def settled() -> float:
        time.sleep(SETTLE_S)
        block(calls)
        return block(calls) / calls

    return settled
