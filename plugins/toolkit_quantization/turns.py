"""Calls timed in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from toolkit import Batch, Data

SECONDS = 1.0  # for each batch size
FEWEST, MOST = 5, 200  # rounds

Name = TypeVar("Name")


def times_in_turn(
    models: Mapping[str, nn.Module], data: Data, batch_sizes: Iterable[int]
) -> dict[int, dict[str, float]]:
    """By batch size the median seconds of a call of each model, on the first training samples.

    The models are in eval mode; each batch size takes about a second, and five rounds at least.
    """
    return {size: _of_models(models, data, data.example(size)) for size in batch_sizes}


def medians_in_turn(
    calls: Mapping[Name, Callable[[], Any]], seconds: float, most: int | None = None, warm: bool = False
) -> dict[Name, float]:
    """The median seconds of each call, in rounds for about so many seconds in all; five rounds at least.

    Args:
        calls: have been called before, if their first call is not to count.
        seconds: after which no round begins.
        most: rounds.
        warm: call each once more right before it is timed, for the one before it has filled the caches.
    """
    rounds: dict[Name, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    done = 0
    while done < FEWEST or (time.perf_counter() < end and (most is None or done < most)):
        for name, call in calls.items():
            if warm:
                call()
            started = time.perf_counter()
            call()
            rounds[name].append(time.perf_counter() - started)
        done += 1
    return {name: statistics.median(times) for name, times in rounds.items()}


def _of_models(models: Mapping[str, nn.Module], data: Data, batch: Batch) -> dict[str, float]:
    calls = {name: partial(_run, model, data, batch) for name, model in models.items()}
    with torch.no_grad():  # what a module makes on its first call and keeps is not to come from inference mode
        for call in calls.values():
            call()
    with torch.inference_mode():
        return medians_in_turn(calls, SECONDS, MOST, warm=True)


def _run(model: nn.Module, data: Data, batch: Batch) -> None:
    data.task.forward(model, batch)
    if data.device.type != "cpu":
        torch.accelerator.synchronize(data.device)
