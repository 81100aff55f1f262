"""Whether a stage leaves its layers trainable where a later one trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from toolkit import masks
from toolkit.promises.fingerprint import Change
from toolkit.recipe.read import Stage


def trained_later(stages: Sequence[Stage], stage: Stage) -> Stage | None:
    """The first later stage that trains what `stage` left, be it after others that passed the model on."""
    rows = {stage.number}
    for later in stages[stage.number :]:
        if later.start not in rows or any(use.params.replaces_model for use in later.uses):
            continue
        if later.finetune is not None:
            return later
        rows.add(later.number)
    return None


def trainable_weights(model: nn.Module) -> dict[str, int]:
    """How many weights of each layer can be trained, of the layers that have parameters."""
    layers = {weight.path.rpartition(".")[0]: weight.module for weight in masks.named_weights(model)}
    return {
        path: sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        for path, module in layers.items()
    }


def frozen(before: Mapping[str, int] | None, model: nn.Module) -> list[Change]:
    """Layers that could be trained and no longer can, all of the model first; `before` is None for a new model.

    A layer that got other parameters to train, as adapters do, is none of them; nor is one that is gone.
    """
    now = trainable_weights(model)
    if not any(now.values()) and (before is None or any(before.values())):
        total = "some" if before is None else sum(before.values())
        return [_frozen("the whole model", total)]
    before = before or {}
    return [_frozen(path, before[path]) for path in now if before.get(path) and not now[path]]


def _frozen(layer: str, weights: int | str) -> Change:
    return Change(layer, f"{weights} trainable weights", "none")
