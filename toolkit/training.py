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
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from toolkit.errors import TrainingError
from toolkit.params import Table
from toolkit.tasks import Batch, Data, Task, to_float32

Loss: TypeAlias = Callable[[Any, Batch], Tensor]
StepFunction: TypeAlias = Callable[[int, int], None]
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
    on_step: Callable[[int, int, float, float], None] | None = None,
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
        TrainingError: nothing to train, or a loss that is not finite (with epoch and step).
    """
    settings, losses = training.settings, []
    batch_size = settings.batch_size or data.batch_size
    orders = _orders(settings.epochs, data.samples("train"))
    steps = settings.epochs * len(data.training_batches(torch.arange(data.samples("train")), batch_size))
    with _training_mode(model, training, data):
        parameters = _parameters(model, training)
        optimizer = _optimizer(parameters, settings)
        schedule = _schedule(optimizer, settings, steps)
        step = 0
        for epoch, order in enumerate(orders, start=1):
            total = 0.0
            for batch in data.training_batches(order, batch_size):
                step += 1
                loss = training_loss(model, training, data.task, batch)
                value = loss.item()
                if not math.isfinite(value):
                    raise TrainingError(_not_finite(value, epoch, step, steps, settings))
                optimizer.zero_grad()
                loss.backward()
                if settings.clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
                lr = optimizer.param_groups[0]["lr"]
                optimizer.step()
                schedule.step()
                for after_step in training.step_functions:
                    after_step(step, steps)
                if on_step is not None:
                    on_step(step, steps, value, lr)
                total += value * len(batch)
            losses.append(total / len(order))
    return losses


def training_loss(model: nn.Module, training: Training, task: Task, batch: Batch) -> Tensor:
    """One forward pass in the training's precision, and its loss in float32 outside of autocast."""
    with _autocast(training.settings.precision, batch.index.device):
        outputs = task.forward(model, batch)
    return training.loss(to_float32(outputs), batch)


def _not_finite(value: float, epoch: int, step: int, steps: int, settings: TrainingSettings) -> str:
    return (
        f"the loss is {value} in epoch {epoch} of {settings.epochs}, step {step} of {steps}: "
        f"lower lr (now {settings.lr:g}) or set clip_norm"
    )


def _orders(epochs: int, samples: int) -> Iterator[Tensor]:
    # A generator of its own, so that what a loss or an augmentation draws does not change the order of the samples.
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    return (torch.randperm(samples, generator=generator) for _ in range(epochs))


def _parameters(model: nn.Module, training: Training) -> list[nn.Parameter]:
    trained = chain(model.parameters(), *(module.parameters() for module in training.modules))
    parameters = [parameter for parameter in trained if parameter.requires_grad]
    if not parameters:
        raise TrainingError(f"{type(model).__name__} has no parameters to train")
    return parameters


def _optimizer(parameters: list[nn.Parameter], settings: TrainingSettings) -> Optimizer:
    if settings.optimizer == "sgd":
        return SGD(parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=True)
    return AdamW(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)


def _schedule(optimizer: Optimizer, settings: TrainingSettings, steps: int) -> LRScheduler:
    if settings.schedule == "one-cycle":
        return OneCycleLR(optimizer, settings.lr, total_steps=steps + 1, cycle_momentum=False)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return LambdaLR(optimizer, lambda _: 1.0)


def _autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def _training_mode(model: nn.Module, training: Training, data: Data) -> Iterator[None]:
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
    model.eval().to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            data.task.forward(model, data.example(2))
    except RuntimeError:
        return False
    finally:
        model.train(was_training).to(memory_format=torch.contiguous_format)
    return True
