"""One training step, and everything that changes from one step to the next."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from toolkit.errors import TrainingError, described
from toolkit.tasks import Batch, Task, to_float32
from toolkit.training.around import AroundSteps
from toolkit.training.losses import loss_problem
from toolkit.training.optimizer import make_optimizer, make_schedule, trained_parameters
from toolkit.training.plan import Training
from toolkit.training.settings import Precision
from toolkit.training.weights import weight_functions

_PRECISION: ContextVar[Precision] = ContextVar("precision of the step that runs", default="float32")


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        order_seed: seed of the order of the samples in all epochs.
        epoch: number of finished epochs.
        step: number of finished steps of the current epoch.
        total: sum of the losses of the current epoch, over samples.
        samples: number of samples of the current epoch that were trained on.
        losses: mean loss of every finished epoch.
        steps: loss and learning rate of every step.
        schedule: state of the schedule to resume, None for a new one.
        validation: metrics by name after every finished epoch, None for an epoch that was not validated.
        next_validation: epoch after which to validate next, from 1.
    """

    order_seed: int
    epoch: int = 0
    step: int = 0
    total: float = 0.0
    samples: int = 0
    losses: list[float] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)
    schedule: dict[str, Any] | None = None
    validation: list[dict[str, float | None] | None] = field(default_factory=list)
    next_validation: int = 1

    def add(self, loss: float, lr: float, samples: int, steps: int) -> None:
        """Count one step on `samples` samples, in an epoch of `steps` steps."""
        self.steps.append((loss, lr))
        self.step += 1
        self.total, self.samples = self.total + loss * samples, self.samples + samples
        if self.step == steps:
            self.losses.append(self.total / self.samples)
            self.epoch, self.step, self.total, self.samples = self.epoch + 1, 0, 0.0, 0


class Stepper:
    """Takes training steps. Its attributes, the model and torch's generators are all that changes between them."""

    def __init__(self, model: nn.Module, training: Training, task: Task) -> None:
        self.model, self.training, self.task = model, training, task
        self.parameters = trained_parameters(model, training)
        self.optimizer = make_optimizer(self.parameters, model, training)
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.schedule: LRScheduler | None = None
        self.done = self.steps = 0

    def schedule_for(self, steps: int, state: dict[str, Any] | None = None) -> None:
        """Plan the learning rate over `steps` steps, or resume a plan from its state."""
        self.steps = steps
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = make_schedule(self.optimizer, self.training.settings, self._rates, steps)
        if self.schedule is not None and state is not None:
            self.schedule.load_state_dict(state)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # a new schedule sets the first rate

    @property
    def lr(self) -> float:
        """The learning rate of the next step, for the model's own parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, batch: Batch) -> float:
        """Take one step on one batch and return its loss; a loss that is not finite changes nothing."""
        self.done += 1
        with weight_functions(self.model, self.training.weights):
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
    """Run the model once in the training's precision, and return the loss in float32, computed outside autocast."""
    token = _PRECISION.set(training.settings.precision)
    try:
        with AroundSteps(model, training.contexts):
            outputs = _outputs(model, training.settings.precision, task, batch)
            loss = training.loss(to_float32(outputs), batch)
    finally:
        _PRECISION.reset(token)
    if problem := loss_problem(loss):
        raise TrainingError(f"the loss function {problem}")
    return loss


def autocast(device: torch.device) -> torch.autocast:
    """Return a context in the precision in which the step that runs computes the model; outside of steps, float32.

    A loss is computed outside of it, in float32. Run a second network of the loss in it, such as a teacher.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=_PRECISION.get() == "bfloat16")


def _outputs(model: nn.Module, precision: Precision, task: Task, batch: Batch) -> Any:
    if precision != "bfloat16":
        return task.forward(model, batch)
    try:
        with torch.autocast(batch.index.device.type, torch.bfloat16):
            return task.forward(model, batch)
    except RuntimeError as error:  # some processors have no bfloat16 for some layers, such as LSTMs
        reason = described(error).partition(". Run workload")[0]
        message = f"the model does not run in bfloat16 on this machine ({reason}); set precision to float32"
        raise TrainingError(message) from error
