"""Models timed in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from toolkit import Batch, Data

SECONDS = 1.0  # for each batch size
FEWEST, MOST = 5, 200  # rounds


def times_in_turn(
    models: Mapping[str, nn.Module], data: Data, batch_sizes: Iterable[int]
) -> dict[int, dict[str, float]]:
    """By batch size the median seconds of a call of each model, on the first training samples.

    The models are in eval mode; each batch size takes about a second, and five rounds at least.
    """
    return {size: _medians(models, data, data.example(size)) for size in batch_sizes}


def _medians(models: Mapping[str, nn.Module], data: Data, batch: Batch) -> dict[str, float]:
    for model in models.values():
        with torch.no_grad():  # what a module makes on its first call and keeps is not to come from inference mode
            _seconds(model, data, batch)
    rounds: dict[str, list[float]] = {name: [] for name in models}
    end = time.perf_counter() + SECONDS
    done = 0
    while done < FEWEST or (done < MOST and time.perf_counter() < end):
        for name, model in models.items():
            with torch.inference_mode():
                _seconds(model, data, batch)  # the one before it has filled the caches
                rounds[name].append(_seconds(model, data, batch))
        done += 1
    return {name: statistics.median(times) for name, times in rounds.items()}


def _seconds(model: nn.Module, data: Data, batch: Batch) -> float:
    started = time.perf_counter()
    data.task.forward(model, batch)
    if data.device.type != "cpu":
        torch.accelerator.synchronize(data.device)
    return time.perf_counter() - started
