"""`precision = "auto"`: both precisions timed on a copy, the faster one taken and written into the recipe."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import torch
from torch import nn

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.errors import TrainingError
from toolkit.training import Precision, Training, training_mode
from toolkit.training.step import training_loss

WARM_UP, TIMED = 2, 5


def with_fixed_precision(model: nn.Module, training: Training, data: Data) -> Training:
    """The same training, with `auto` replaced by the precision whose forward and backward pass is faster here.

    A precision in which the model cannot be run on this processor is not taken.
    """
    if training.settings.precision != "auto":
        return training
    candidates = [name for name in get_args(Precision) if name != "auto"]
    trainings = [
        replace(training, settings=training.settings.model_copy(update={"precision": name})) for name in candidates
    ]
    with torch.random.fork_rng(), _restored(training.modules):
        return min(trainings, key=lambda candidate: _seconds_if_any(masks.clone(model), candidate, data))


@contextmanager
def _restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """What helper modules learn inside, such as statistics of batch norm, they forget."""
    states = [copy.deepcopy(module.state_dict()) for module in modules]
    yield
    for module, state in zip(modules, states, strict=True):
        module.load_state_dict(state)
        module.zero_grad()


def _seconds_if_any(model: nn.Module, training: Training, data: Data) -> float:
    try:
        return _seconds(model, training, data)
    except TrainingError:
        return math.inf


def _seconds(model: nn.Module, training: Training, data: Data) -> float:
    batch = data.example(training.settings.batch_size or data.batch_size)
    times = []
    with training_mode(model, training, data):
        for _ in range(WARM_UP + TIMED):
            started = time.perf_counter()
            training_loss(model, training, data.task, batch).backward()
            if data.device.type == "cuda":
                torch.cuda.synchronize(data.device)
            times.append(time.perf_counter() - started)
    return sorted(times[WARM_UP:])[TIMED // 2]
