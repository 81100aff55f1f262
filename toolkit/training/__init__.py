"""How a stage trains, and the one loop that does it: for the baseline, for every technique, built-in or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, Protocol, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.data.batches import Batches
from toolkit.data.splits import Data
from toolkit.errors import TrainingError
from toolkit.params import Table
from toolkit.tasks import Batch
from toolkit.training.step import Progress, Stepper

Loss: TypeAlias = Callable[[Any, Batch], Tensor]
StepFunction: TypeAlias = Callable[[int, int], None]
AroundStep: TypeAlias = Callable[[nn.Module], AbstractContextManager[Any]]
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
    augment: bool = Field(default=True, description="whether the data's augmentation is used, if it has one")


@dataclass(frozen=True)
class Training:
    """What one stage trains with. Techniques get it in `finetune` and return it with something of theirs added.

    `loss` is `(outputs, batch) -> scalar` and always receives float32; `step_functions` are called after each step
    with `(step, steps)`, from 1; `modules` are trained along with the model and dropped afterwards; `contexts` are
    entered with the model before each forward pass, and left after its loss; `samples` are the positions in the train
    split, int64 (N,), that are trained on, None for all.
    """

    settings: TrainingSettings
    loss: Loss
    step_functions: tuple[StepFunction, ...] = ()
    modules: tuple[nn.Module, ...] = ()
    contexts: tuple[AroundStep, ...] = ()
    samples: Tensor | None = None

    def using(
        self,
        *,
        loss: Loss | None = None,
        after_step: StepFunction | None = None,
        trained_along: nn.Module | None = None,
        around_step: AroundStep | None = None,
        samples: Tensor | None = None,
    ) -> Training:
        """The same training with another loss, with something more, or on fewer samples.

        Args:
            loss: instead of the one so far, which it wraps.
            after_step: called with `(step, steps)` after each step.
            trained_along: a module that is trained too.
            around_step: called with the model that runs, which may be a copy; the context manager that it returns is
                entered for the forward pass and the loss. Hooks on layers are put on in it, and taken off.
            samples: positions in the train split, int64 (N,): of those so far, only these are trained on. The model
                never sees the others, not even its batch norms, and a batch is as large as ever.
        """
        return replace(
            self,
            loss=loss or self.loss,
            step_functions=(*self.step_functions, *([after_step] if after_step else [])),
            modules=(*self.modules, *([trained_along] if trained_along else [])),
            contexts=(*self.contexts, *([around_step] if around_step else [])),
            samples=_in_both(self.samples, samples),
        )


class Keeper(Protocol):
    """Keeps a training under way, so that it can go on after an interruption."""

    def restore(self, stepper: Stepper, progress: Progress) -> None:
        """Bring both to where the training was left, if something of it is kept."""

    def after_step(self, stepper: Stepper, progress: Progress) -> None:
        """A step was taken: keep where the training is, now or later."""


def fit(
    model: nn.Module,
    training: Training,
    data: Data,
    on_step: OnStep | None = None,
    keeper: Keeper | None = None,
) -> list[float]:
    """Train `model` in place on `data.train` and leave it in eval mode.

    Args:
        model: on `data.device`; parameters that do not require gradients stay as they are.
        training: settings, loss, step functions and helper modules.
        data: the train split, or what of it the training is for, is read in an order drawn from torch's global
            generator.
        on_step: told `(step, steps, loss, lr)` after each step.
        keeper: keeps how far the training has come; where it has something kept already, the training goes on from
            there, and `on_step` is told of the steps before once more.

    Returns:
        The mean loss of every epoch.

    Raises:
        TrainingError: nothing to train or to train on, or a loss that is not finite (with epoch and step), or weights
            at the end.
    """
    settings = training.settings
    if settings.precision == "auto":
        raise TrainingError("precision 'auto' is decided by the runner: fit takes float32 or bfloat16")
    data = data if settings.augment else data.without_augmentation()
    progress = Progress(order_seed=int(torch.randint(2**62, ())))
    with training_mode(model, training, data):
        stepper = Stepper(model, training, data.task)
        if keeper is not None:
            keeper.restore(stepper, progress)
        epochs = _epochs(training, data, progress.order_seed)
        stepper.schedule_for(_steps(training, data), progress.schedule)
        for step, (loss, lr) in enumerate(progress.steps, start=1):
            if on_step is not None:
                on_step(step, stepper.steps, loss, lr)
        for batches in islice(epochs, progress.epoch, None):
            _epoch(stepper, progress, batches, on_step, keeper)
        if not all(parameter.isfinite().all() for parameter in stepper.parameters):
            raise TrainingError(f"the weights are not finite after the last step: {_remedy(settings)}")
    return progress.losses


def _in_both(samples: Tensor | None, others: Tensor | None) -> Tensor | None:
    if samples is None or others is None:
        return others if samples is None else samples
    return samples[torch.isin(samples, others)]


def _trained_on(training: Training, data: Data) -> Tensor:
    """Positions in the train split, on the CPU."""
    if training.samples is None:
        return torch.arange(data.samples("train"))
    if not len(training.samples):
        raise TrainingError("no sample is left to train on: the techniques of the stage leave all of them out")
    return training.samples.cpu()


def _steps(training: Training, data: Data) -> int:
    settings, samples = training.settings, _trained_on(training, data)
    return settings.epochs * len(data.training_batches(samples, settings.batch_size or data.batch_size))


def _epochs(training: Training, data: Data, seed: int) -> Iterator[Batches]:
    settings, samples = training.settings, _trained_on(training, data)
    # A generator of its own, so that what a loss or an augmentation draws does not change the order of the samples.
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = samples[torch.randperm(len(samples), generator=generator)]
        yield data.training_batches(order, settings.batch_size or data.batch_size)


def _epoch(
    stepper: Stepper, progress: Progress, batches: Batches, on_step: OnStep | None, keeper: Keeper | None
) -> None:
    """Take one step a batch, from where `progress` is in the epoch to its end."""
    for batch in batches.after(progress.step):
        lr = stepper.lr
        loss = stepper.step(batch)
        if not math.isfinite(loss):
            settings = stepper.training.settings
            raise TrainingError(
                f"the loss is {loss} in epoch {progress.epoch + 1} of {settings.epochs}, "
                f"step {stepper.done} of {stepper.steps}: {_remedy(settings)}"
            )
        progress.add(loss, lr, len(batch), len(batches))
        if on_step is not None:
            on_step(stepper.done, stepper.steps, loss, lr)
        if keeper is not None:
            keeper.after_step(stepper, progress)


def _remedy(settings: TrainingSettings) -> str:
    return f"lower lr (now {settings.lr:g}) or set clip_norm"


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


__all__ = ["Training", "TrainingSettings", "fit"]
