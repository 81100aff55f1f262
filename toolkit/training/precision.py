"""`precision = "auto"`: both precisions are timed on copies, and the faster one is written into the resolved recipe."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import get_args

import torch
from torch import nn

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.errors import TrainingError
from toolkit.tasks import Batch, Task
from toolkit.timing import time_in_turn
from toolkit.training.loop import training_mode
from toolkit.training.plan import Training
from toolkit.training.settings import Precision
from toolkit.training.step import training_loss
from toolkit.training.weights import weight_functions

WARM_UP_ROUNDS, ROUNDS = 2, 5


def with_fixed_precision(model: nn.Module, training: Training, data: Data) -> Training:
    """Return the same training, with `auto` replaced by the precision whose forward and backward pass is faster.

    A precision that this processor cannot run the model in is not a candidate.
    """
    if training.settings.precision != "auto":
        return training
    trainings = {name: _in_precision(training, name) for name in get_args(Precision) if name != "auto"}
    batch = data.example(training.settings.batch_size or data.batch_size)
    with torch.random.fork_rng(), _restored(training.modules), ExitStack() as modes:
        passes: dict[str, Callable[[], None]] = {}
        for name, candidate in trainings.items():
            twin = masks.clone(model)
            modes.enter_context(training_mode(twin, candidate, data))
            passes[name] = partial(_pass, twin, candidate, data.task, batch)
        return trainings[_fastest(passes, data.device)]


def _in_precision(training: Training, name: Precision) -> Training:
    return replace(training, settings=training.settings.model_copy(update={"precision": name}))


@contextmanager
def _restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Undo on leaving what helper modules learned inside, such as the statistics of batch norms."""
    states = [copy.deepcopy(module.state_dict()) for module in modules]
    yield
    for module, state in zip(modules, states, strict=True):
        module.load_state_dict(state)
        module.zero_grad()


def _pass(model: nn.Module, training: Training, task: Task, batch: Batch) -> None:
    """Run one forward and one backward pass."""
    model.zero_grad()
    with weight_functions(model, training.weights):
        training_loss(model, training, task, batch).backward()


def _fastest(passes: Mapping[str, Callable[[], None]], device: torch.device) -> str:
    runnable = {name: run for name, run in passes.items() if _warms_up(run)}
    if len(runnable) < 2:
        return next(iter(runnable or passes))
    return time_in_turn(runnable, 0.0, min_rounds=ROUNDS, device=device).fastest


def _warms_up(run: Callable[[], None]) -> bool:
    try:
        for _ in range(WARM_UP_ROUNDS):
            run()
    except TrainingError:
        return False
    return True
