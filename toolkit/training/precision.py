"""The choice of a precision for `precision = "auto"`: both are timed on a copy of the model."""

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
from toolkit.training.loop import training_mode
from toolkit.training.plan import Training
from toolkit.training.settings import Precision
from toolkit.training.step import training_loss
from toolkit.training.weights import weight_functions

WARM_UP_STEPS, TIMED_STEPS = 2, 5


def with_fixed_precision(model: nn.Module, training: Training, data: Data) -> Training:
    """Return the same training, with `auto` replaced by the precision that is faster on this machine.

    What is timed are the forward and the backward pass. A precision that the processor does not support for this
    model is excluded.
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
    """Restore the state of helper modules, such as the statistics of batch norms, on leaving."""
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
        for _ in range(WARM_UP_STEPS + TIMED_STEPS):
            started = time.perf_counter()
            with weight_functions(model, training.weights):
                training_loss(model, training, data.task, batch).backward()
            if data.device.type == "cuda":
                torch.cuda.synchronize(data.device)
            times.append(time.perf_counter() - started)
    return sorted(times[WARM_UP_STEPS:])[TIMED_STEPS // 2]
