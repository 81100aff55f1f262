"""The training loop: for the baseline and for every technique, built-in or third-party."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from toolkit.data.batches import Batches
from toolkit.data.splits import Data
from toolkit.errors import TrainingError
from toolkit.training.plan import Training
from toolkit.training.settings import TrainingSettings
from toolkit.training.step import Progress, Stepper

OnStep: TypeAlias = Callable[[int, int, float, float], None]


class Checkpoints(Protocol):
    """Stored states of a training, from which it resumes after an interruption."""

    def restore(self, stepper: Stepper, progress: Progress) -> None:
        """Restore both from the newest state, if there is one."""

    def after_step(self, stepper: Stepper, progress: Progress) -> None:
        """Store the state after a step, or leave it to a later step."""


class AfterEpochs(Protocol):
    """What happens after each epoch; it must change neither the model nor the random generators."""

    def begin(self, progress: Progress) -> None:
        """Learn of the epochs before the first step of this process."""

    def after_epoch(self, stepper: Stepper, progress: Progress, epoch_s: float) -> None:
        """Act on an epoch that took `epoch_s` seconds, before a checkpoint contains it."""


def fit(
    model: nn.Module,
    training: Training,
    data: Data,
    on_step: OnStep | None = None,
    checkpoints: Checkpoints | None = None,
    after_epochs: AfterEpochs | None = None,
) -> list[float]:
    """Train `model` in place on `data.train` and leave it in eval mode.

    Args:
        model: on `data.device`; parameters that do not require gradients stay as they are.
        training: settings, loss, and what techniques added to them.
        data: the train split; torch's global generator draws the seed of the order of its samples.
        on_step: called with `(step, steps, loss, lr)` after each step.
        checkpoints: stored states of this training. If there is one, the training resumes from it and first calls
            `on_step` for the steps before it.
        after_epochs: called when the training begins, and after each epoch.

    Returns:
        The mean loss of every epoch.

    Raises:
        TrainingError: nothing can be trained or trained on, a loss is not finite (with epoch and step), or the
            weights are not finite at the end.
        TechniqueError: something that a technique added to the training failed.
    """
    settings = training.settings
    if settings.precision == "auto":
        raise TrainingError("fit does not support precision 'auto'; use float32 or bfloat16")
    data = data if settings.augment else data.without_augmentation()
    progress = Progress(order_seed=int(torch.randint(2**62, ())))
    with training_mode(model, training, data):
        stepper = Stepper(model, training, data.task)
        if checkpoints is not None:
            checkpoints.restore(stepper, progress)
        epochs = _epochs(training, data, progress.order_seed)
        stepper.schedule_for(_steps(training, data), progress.schedule)
        for step, (loss, lr) in enumerate(progress.steps, start=1):
            if on_step is not None:
                on_step(step, stepper.steps, loss, lr)
        if after_epochs is not None:
            after_epochs.begin(progress)
        for batches in islice(epochs, progress.epoch, None):
            _epoch(stepper, progress, batches, on_step, checkpoints, after_epochs)
        if not all(parameter.isfinite().all() for parameter in stepper.parameters):
            raise TrainingError(f"the weights are not finite after the last step; {_remedy(settings)}")
    return progress.losses


def _trained_on(training: Training, data: Data) -> Tensor:
    """Positions in the train split, on the CPU."""
    if training.samples is None:
        return torch.arange(data.samples("train"))
    if not len(training.samples):
        raise TrainingError("no samples remain to train on; the techniques of the stage exclude all of them")
    return training.samples.cpu()


def _steps(training: Training, data: Data) -> int:
    settings, samples = training.settings, _trained_on(training, data)
    return settings.epochs * len(data.training_batches(samples, settings.batch_size or data.batch_size))


def _epochs(training: Training, data: Data, seed: int) -> Iterator[Batches]:
    settings, samples = training.settings, _trained_on(training, data)
    # With its own generator, the order of the samples does not depend on what a loss or an augmentation draws.
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = samples[torch.randperm(len(samples), generator=generator)]
        yield data.training_batches(order, settings.batch_size or data.batch_size)


def _epoch(
    stepper: Stepper,
    progress: Progress,
    batches: Batches,
    on_step: OnStep | None,
    checkpoints: Checkpoints | None,
    after_epochs: AfterEpochs | None,
) -> None:
    """Take one step per batch, from the position of `progress` to the end of the epoch."""
    started, left = time.perf_counter(), len(batches) - progress.step
    for batch in batches.after(progress.step):
        lr = stepper.lr
        loss = stepper.step(batch)
        if not math.isfinite(loss):
            settings = stepper.training.settings
            raise TrainingError(
                f"the loss is {loss} in epoch {progress.epoch + 1} of {settings.epochs}, "
                f"step {stepper.done} of {stepper.steps}; {_remedy(settings)}"
            )
        progress.add(loss, lr, len(batch), len(batches))
        if on_step is not None:
            on_step(stepper.done, stepper.steps, loss, lr)
        if after_epochs is not None and progress.step == 0:
            epoch_s = (time.perf_counter() - started) * len(batches) / left
            after_epochs.after_epoch(stepper, progress, epoch_s)
        if checkpoints is not None:
            checkpoints.after_step(stepper, progress)


def _remedy(settings: TrainingSettings) -> str:
    return f"lower lr (now {settings.lr:g}) or set clip_norm"


@contextmanager
def training_mode(model: nn.Module, training: Training, data: Data) -> Iterator[None]:
    """Hold the model and the helpers in train mode, and the model in a fast memory layout; eval mode on leaving."""
    modules = [model, *training.modules]
    for module in training.modules:
        module.to(data.device)
    use_fast_layout(model, data)
    try:
        for module in modules:
            module.train()
        yield
    finally:
        for module in modules:
            module.eval()
        model.to(memory_format=torch.contiguous_format)


def use_fast_layout(model: nn.Module, data: Data) -> None:
    """Put a network with 2-d convolutions into channels-last memory layout, if it runs in it."""
    if _gains_from_channels_last(model, data):
        model.to(memory_format=torch.channels_last)


def _gains_from_channels_last(model: nn.Module, data: Data) -> bool:
    """Return whether there are 2-d convolutions and the network runs in this layout (`view` may fail in it)."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return False
    was_training = model.training
    try:
        model.eval().to(memory_format=torch.channels_last)  # raises for 3-d convolutions
        with torch.no_grad():
            data.task.forward(model, data.example(2))
    except RuntimeError:
        return False
    finally:
        model.train(was_training).to(memory_format=torch.contiguous_format)
    return True
