"""What a training optimizes: parameters in groups of equal settings, and the learning rate over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from toolkit.errors import TrainingError
from toolkit.training.plan import TrainedAlong, Training
from toolkit.training.settings import TrainingSettings


def trained_parameters(model: nn.Module, training: Training) -> list[nn.Parameter]:
    """Return all parameters to train, each once: a helper module may contain layers of the model."""
    candidates = dict.fromkeys(chain(model.parameters(), *(module.parameters() for module in training.modules)))
    parameters = [parameter for parameter in candidates if parameter.requires_grad]
    if not parameters:
        raise TrainingError(f"{type(model).__name__} has no parameters to train")
    return parameters


def make_optimizer(parameters: Sequence[nn.Parameter], model: nn.Module, training: Training) -> Optimizer:
    """Return the optimizer of a training, with a group of parameters for each of the settings."""
    settings = training.settings
    groups = _groups(parameters, model, training)
    if settings.optimizer == "sgd":
        return SGD(groups, settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=True)
    return AdamW(groups, settings.lr, weight_decay=settings.weight_decay, fused=True)


def make_schedule(
    optimizer: Optimizer, settings: TrainingSettings, rates: list[float], steps: int
) -> LRScheduler | None:
    """Return the schedule that scales the learning rates, given for every group; None if they are constant."""
    if settings.schedule == "one-cycle":
        return OneCycleLR(optimizer, rates, total_steps=steps + 1, cycle_momentum=False)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return None


def _groups(parameters: Sequence[nn.Parameter], model: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Return the parameters with the training's settings first, then those of each helper with its own."""
    of_model = set(model.parameters())
    own: dict[nn.Parameter, TrainedAlong] = {}
    for along in training.trained_along:
        for parameter in along.module.parameters():
            if parameter not in of_model:
                own.setdefault(parameter, along)
    by_settings: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in parameters:
        by_settings.setdefault(_settings_of(own.get(parameter), training.settings), []).append(parameter)
    return [
        {"params": members, "lr": lr, "weight_decay": weight_decay}
        for (lr, weight_decay), members in by_settings.items()
    ]


def _settings_of(along: TrainedAlong | None, settings: TrainingSettings) -> tuple[float, float]:
    lr = settings.lr if along is None or along.lr is None else along.lr
    return lr, settings.weight_decay if along is None or along.weight_decay is None else along.weight_decay
