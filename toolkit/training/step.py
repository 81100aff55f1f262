"""Training steps, and everything that changes from one to the next."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from toolkit.errors import TrainingError, described
from toolkit.tasks import Batch, Task, to_float32

if TYPE_CHECKING:
    from toolkit.training import Precision, Training, TrainingSettings


@dataclass
class Progress:
    """How far a training has come: `epoch` and `step` count what is done, `total` sums the losses of this epoch.

    `order_seed` draws the order of the samples in all epochs; `steps` has the loss and the learning rate of every
    step; `schedule` is the state of a schedule to go on with.
    """

    order_seed: int
    epoch: int = 0
    step: int = 0
    total: float = 0.0
    samples: int = 0
    losses: list[float] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)
    schedule: dict[str, Any] | None = None

    def add(self, loss: float, lr: float, samples: int, steps: int) -> None:
        """Count one step on so many samples, in an epoch of so many steps."""
        self.steps.append((loss, lr))
        self.step += 1
        self.total, self.samples = self.total + loss * samples, self.samples + samples
        if self.step == steps:
            self.losses.append(self.total / self.samples)
            self.epoch, self.step, self.total, self.samples = self.epoch + 1, 0, 0.0, 0


class Stepper:
    """Takes training steps: everything that changes from one to the next is here, in the model or in torch."""

    def __init__(self, model: nn.Module, training: Training, task: Task) -> None:
        self.model, self.training, self.task = model, training, task
        self.parameters = _parameters(model, training)
        self.optimizer = _optimizer(self.parameters, training.settings)
        self.schedule: LRScheduler | None = None
        self.done = self.steps = 0

    def schedule_for(self, steps: int, state: dict[str, Any] | None = None) -> None:
        """Plan the learning rate over so many steps, or go on with a plan that is under way."""
        self.steps = steps
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = _schedule(self.optimizer, self.training.settings, steps)
        if self.schedule is not None and state is not None:
            self.schedule.load_state_dict(state)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # a schedule that is made sets the first rate

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batch: Batch) -> float:
        """One step on one batch; its loss, with which nothing is done if it is not finite."""
        self.done += 1
        loss = training_loss(self.model, self.training, self.task, batch)
        value = loss.item()
        if not math.isfinite(value):
            return value
        self.optimizer.zero_grad()
        loss.backward()
        if self.training.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.training.settings.clip_norm)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        for after_step in self.training.step_functions:
            after_step(self.done, self.steps)
        return value


def training_loss(model: nn.Module, training: Training, task: Task, batch: Batch) -> Tensor:
    """One forward pass in the training's precision, and its loss in float32 outside of autocast."""
    with ExitStack() as contexts:
        for around_step in training.contexts:
            contexts.enter_context(around_step(model))
        outputs = _outputs(model, training.settings.precision, task, batch)
        return training.loss(to_float32(outputs), batch)


def _outputs(model: nn.Module, precision: Precision, task: Task, batch: Batch) -> Any:
    if precision != "bfloat16":
        return task.forward(model, batch)
    try:
        with torch.autocast(batch.index.device.type, torch.bfloat16):
            return task.forward(model, batch)
    except RuntimeError as error:  # some processors have no bfloat16 for some layers, such as LSTMs
        reason = described(error).partition(". Run workload")[0]
        raise TrainingError(f"the model cannot be run in bfloat16 here, take precision float32: {reason}") from error


def _parameters(model: nn.Module, training: Training) -> list[nn.Parameter]:
    # Each once: a helper module may hold layers of the model.
    trained = dict.fromkeys(chain(model.parameters(), *(module.parameters() for module in training.modules)))
    parameters = [parameter for parameter in trained if parameter.requires_grad]
    if not parameters:
        raise TrainingError(f"{type(model).__name__} has no parameters to train")
    return parameters


def _optimizer(parameters: list[nn.Parameter], settings: TrainingSettings) -> Optimizer:
    if settings.optimizer == "sgd":
        return SGD(parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=True)
    return AdamW(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)


def _schedule(optimizer: Optimizer, settings: TrainingSettings, steps: int) -> LRScheduler | None:
    if settings.schedule == "one-cycle":
        return OneCycleLR(optimizer, settings.lr, total_steps=steps + 1, cycle_momentum=False)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return None
