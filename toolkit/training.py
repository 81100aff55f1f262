"""How a stage trains, and the one loop that does it: for the baseline, for every technique, built-in or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from toolkit.batches import Batches
from toolkit.errors import TrainingError
from toolkit.params import Table
from toolkit.tasks import Batch, Data, Task, to_float32

Loss: TypeAlias = Callable[[Any, Batch], Tensor]
StepFunction: TypeAlias = Callable[[int, int], None]
OnStep: TypeAlias = Callable[[int, int, float, float], None]
Precision: TypeAlias = Literal["float32", "bfloat16", "auto"]


class TrainingSettings(Table):
    """A recipe's `training` or `finetune` table."""

    epochs: int = Field(default=1, ge=1, description="passes over the training data")
    lr: float = Field(default=1e-3, gt=0, description="learning rate; the highest one of a one-cycle schedule")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="AdamW, or SGD with momentum")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled for adamw, L2 for sgd")
    schedule: Literal["one-cycle", "cosine", "constant"] = Field(
        default="one-cycle",
        description="learning rate over the steps: up and down, down to zero, or constant",
    )
    batch_size: int | None = Field(default=None, ge=1, description="samples a step; the data's unless given")
    precision: Precision = Field(
        default="float32",
        description="of the forward and backward pass; auto times both and takes the faster",
    )
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of all gradients together")


@dataclass(frozen=True)
class Training:
    """What one stage trains with. Techniques get it in `finetune` and return it with something of theirs added.

    `loss` is `(outputs, batch) -> scalar` and always receives float32; `step_functions` are called after each step
    with `(step, steps)`, from 1; `modules` are trained along with the model and dropped afterwards.
    """

    settings: TrainingSettings
    loss: Loss
    step_functions: tuple[StepFunction, ...] = ()
    modules: tuple[nn.Module, ...] = ()

    def using(
        self,
        *,
        loss: Loss | None = None,
        after_step: StepFunction | None = None,
        trained_along: nn.Module | None = None,
    ) -> Training:
        """The same training with another loss, one more function after each step, one more module to train."""
        return replace(
            self,
            loss=loss or self.loss,
            step_functions=(*self.step_functions, *([after_step] if after_step else [])),
            modules=(*self.modules, *([trained_along] if trained_along else [])),
        )


def fit(
    model: nn.Module,
    training: Training,
    data: Data,
    on_step: OnStep | None = None,
) -> list[float]:
    """Train `model` in place on `data.train` and leave it in eval mode.

    Args:
        model: on `data.device`; parameters that do not require gradients stay as they are.
        training: settings, loss, step functions and helper modules.
        data: the train split is read in an order drawn from torch's global generator.
        on_step: told `(step, steps, loss, lr)` after each step.

    Returns:
        The mean loss of every epoch.

    Raises:
        TrainingError: nothing to train, or a loss that is not finite (with epoch and step), or weights at the end.
    """
    settings = training.settings
    if settings.precision == "auto":
        raise TrainingError("precision 'auto' is decided by the runner: fit takes float32 or bfloat16")
    batch_size = settings.batch_size or data.batch_size
    epochs = [data.training_batches(order, batch_size) for order in _orders(settings.epochs, data.samples("train"))]
    steps = sum(map(len, epochs))
    with training_mode(model, training, data):
        stepper = _Stepper(model, training, data.task, steps)
        losses = [_epoch(stepper, number, batches, on_step) for number, batches in enumerate(epochs, start=1)]
        if not all(parameter.isfinite().all() for parameter in stepper.parameters):
            raise TrainingError(f"the weights are not finite after the last step: {_remedy(settings)}")
    return losses


def _epoch(stepper: _Stepper, number: int, batches: Batches, on_step: OnStep | None) -> float:
    """Take one step a batch; the mean loss of the samples."""
    total, samples = 0.0, 0
    for batch in batches:
        lr = stepper.lr
        loss = stepper.step(batch)
        if not math.isfinite(loss):
            settings = stepper.training.settings
            raise TrainingError(
                f"the loss is {loss} in epoch {number} of {settings.epochs}, "
                f"step {stepper.done} of {stepper.steps}: {_remedy(settings)}"
            )
        if on_step is not None:
            on_step(stepper.done, stepper.steps, loss, lr)
        total, samples = total + loss * len(batch), samples + len(batch)
    return total / samples


class _Stepper:
    """Takes training steps: everything that changes from one to the next is here, in the model or in torch."""

    def __init__(self, model: nn.Module, training: Training, task: Task, steps: int) -> None:
        self.model, self.training, self.task, self.steps = model, training, task, steps
        self.parameters = _parameters(model, training)
        self.optimizer = _optimizer(self.parameters, training.settings)
        self.schedule = _schedule(self.optimizer, training.settings, steps)
        self.done = 0

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
    with _autocast(training.settings.precision, batch.index.device):
        outputs = task.forward(model, batch)
    return training.loss(to_float32(outputs), batch)


def _remedy(settings: TrainingSettings) -> str:
    return f"lower lr (now {settings.lr:g}) or set clip_norm"


def _orders(epochs: int, samples: int) -> Iterator[Tensor]:
    # A generator of its own, so that what a loss or an augmentation draws does not change the order of the samples.
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    return (torch.randperm(samples, generator=generator) for _ in range(epochs))


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


def _autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def training_mode(model: nn.Module, training: Training, data: Data) -> Iterator[None]:
    """Train mode and a fast memory layout inside, eval mode and the plain layout outside."""
    modules = [model, *training.modules]
    for module in training.modules:
        module.to(data.device)
    if _gains_from_channels_last(model, data):
        model.to(memory_format=torch.channels_last)
    try:
        for module in modules:
            module.train()
        yield
    finally:
        for module in modules:
            module.eval()
        model.to(memory_format=torch.contiguous_format)


def _gains_from_channels_last(model: nn.Module, data: Data) -> bool:
    """Whether there are 2-d convolutions, and nothing in the network insists on the plain layout (`view` may)."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return False
    was_training = model.training
    try:
        model.eval().to(memory_format=torch.channels_last)  # raises where there are 3-d convolutions too
        with torch.no_grad():
            data.task.forward(model, data.example(2))
    except RuntimeError:
        return False
    finally:
        model.train(was_training).to(memory_format=torch.contiguous_format)
    return True
