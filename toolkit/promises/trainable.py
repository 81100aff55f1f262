"""The check that a stage leaves layers trainable if a later stage trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from toolkit import masks
from toolkit.promises.fingerprint import Change
from toolkit.recipe.read import Stage
from toolkit.recipe.successors import successors


def trained_later(stages: Sequence[Stage], stage: Stage) -> Stage | None:
    """Return the first later stage that trains the model of `stage`, directly or after stages in between."""
    return next((later for later in successors(stages, stage) if later.finetune is not None), None)


def trainable_weights(model: nn.Module) -> dict[str, int]:
    """Return the number of trainable weights of every layer that has parameters."""
    layers = {weight.path.rpartition(".")[0]: weight.module for weight in masks.named_weights(model)}
    return {
        path: sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        for path, module in layers.items()
    }


def frozen(before: Mapping[str, int] | None, model: nn.Module) -> list[Change]:
    """Return the layers that can no longer be trained, or the whole model; `before` is None for a new model.

    A layer with other parameters to train, such as an adapter, does not count; nor does a removed one.
    """
    now = trainable_weights(model)
    if not any(now.values()) and (before is None or any(before.values())):
        total = "some" if before is None else sum(before.values())
        return [_frozen("the whole model", total)]
    before = before or {}
    return [_frozen(path, before[path]) for path in now if before.get(path) and not now[path]]


def _frozen(layer: str, weights: int | str) -> Change:
    return Change(layer, f"{weights} trainable weights", "none")
