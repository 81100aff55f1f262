"""Latency of an exported file, relative to the baseline in PyTorch and to the baseline's file of the same runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

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


@dataclass(frozen=True)
class TimedFile:
    """A file in its own process, with the baseline's file of the same runtime; None if it is that, or without one."""

    file: OpenedFile
    baseline_file: OpenedFile | None = None


def file_latency(
    file: OpenedFile,
    baseline: nn.Module | None,
    baseline_file: OpenedFile | None,
    data: Data,
    sizes: Sequence[int],
    budget_s: float,
) -> dict[str, Any]:
    """Time one file as `file_latencies` does."""
    return file_latencies([TimedFile(file, baseline_file)], baseline, data, sizes, budget_s)[0]


def file_latencies(
    files: Sequence[TimedFile], baseline: nn.Module | None, data: Data, sizes: Sequence[int], budget_s: float
) -> list[dict[str, Any]]:
    """Time opened files in turn, with the baseline in PyTorch and the baseline's files of the same runtimes.

    Args:
        files: each in its own process.
        baseline: the model that all ratios refer to, in eval mode on the CPU; None for the files themselves.
        data: the task feeds batches of the first training samples.
        sizes: samples per call.
        budget_s: seconds for all sizes; at least `MIN_ROUNDS` rounds are timed.

    Returns:
        For each file the keys of the metric `latency`, by batch size, and `runtime_ratio` with
        `runtime_ratio_interval`: the time of a call divided by that of the baseline's file. Ratios lack the sizes whose
        interval says nothing.
    """
    by_size = {size: _rounds(files, baseline, data, size, budget_s / len(sizes)) for size in sizes}
    return [_values(by_size, places) for places in _places(files, baseline)]


class _Places(NamedTuple):
    """The places of a file's times in a round: its own, those of the baseline in PyTorch, of the baseline's file."""

    file: int
    baseline: int | None
    baseline_file: int | None

    @property
    def reference(self) -> int:
        """What the ratio refers to; the file itself if it is timed alone."""
        others = (place for place in (self.baseline, self.baseline_file) if place is not None)
        return next(others, self.file)


def _places(files: Sequence[TimedFile], baseline: nn.Module | None) -> list[_Places]:
    places, count = [], 0 if baseline is None else 1
    for timed in files:
        other = None if timed.baseline_file is None else count + 1
        places.append(_Places(count, None if baseline is None else 0, other))
        count += 1 if other is None else 2
    return places


def _rounds(
    files: Sequence[TimedFile], baseline: nn.Module | None, data: Data, size: int, budget_s: float
) -> list[Floats]:
    """Return the seconds of a call at each place, (rounds,) each."""
    batch = data.example(size)
    blocks = [] if baseline is None else [_in_torch(baseline, data, batch)]
    opened = [file for timed in files for file in (timed.file, timed.baseline_file) if file is not None]
    blocks += [_in_process(file, data, batch) for file in opened]
    deadline = time.perf_counter() + budget_s
    rounds = take_turns(blocks, partial(_enough, deadline, _places(files, baseline)))
    return list(np.array(rounds, dtype=np.float64).T)


def _values(by_size: Mapping[int, Sequence[Floats]], places: _Places) -> dict[str, Any]:
    timings = {size: Timing(seconds[places.file], seconds[places.reference]) for size, seconds in by_size.items()}
    values: dict[str, Any] = latency_values(timings)
    if places.baseline is not None and places.baseline_file is not None:
        for size, seconds in by_size.items():
            for key, value in _runtime_ratio(seconds[places.file], seconds[places.baseline_file]).items():
                values.setdefault(key, {})[str(size)] = value
    return values


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
    places = [_Places(0, None, 1)]
    rounds = take_turns([_in_process(each, data, batch) for each in (file, other)], partial(_enough, deadline, places))
    first, second = np.array(rounds, dtype=np.float64).T
    return first, second


def _runtime_ratio(seconds: Floats, reference: Floats) -> dict[str, Any]:
    """Return the ratio to the baseline's file and its interval, nothing if the interval says nothing."""
    interval = ratio_interval(seconds, reference)
    if not is_known(interval):
        return {}
    return {"runtime_ratio": median_ratio(seconds, reference), "runtime_ratio_interval": list(interval)}


def _enough(deadline: float, places: Sequence[_Places], rounds: list[list[float]]) -> bool:
    if len(rounds) < MIN_ROUNDS:
        return False
    if len(rounds) >= MAX_ROUNDS or time.perf_counter() >= deadline:
        return True
    return all(each.reference != each.file and _is_narrow(rounds, each) for each in places)


def _is_narrow(rounds: list[list[float]], places: _Places) -> bool:
    ratios = np.array([row[places.file] / row[places.reference] for row in rounds])
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
