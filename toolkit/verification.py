"""What the runner checks of a technique's work, whoever wrote it."""

from __future__ import annotations

from torch import nn

from toolkit import masks
from toolkit.assembly import logits_shape
from toolkit.errors import InputError, TechniqueError
from toolkit.recipe import Stage
from toolkit.report import Note
from toolkit.tasks import Data


def verify(stage: Stage, before: nn.Module, after: nn.Module, data: Data) -> dict[str, Note]:
    """Compare a stage's result with its input: a `TechniqueError` for a breach, notes for what ended on purpose."""
    who = " with ".join(str(step.technique) for step in stage.steps)
    try:
        expected, found = logits_shape(before, data), logits_shape(after, data)
    except InputError as error:
        raise TechniqueError(f"the model that {who} returned {error}") from error
    if found != expected:
        raise TechniqueError(f"{who} returned a model whose outputs are {found} a sample, they were {expected}")
    if not any(step.params.replaces_model for step in stage.steps):
        _require_zeros(before, after, who)
        return {}
    if not masks.current(before):
        return {}
    layers = len(masks.current(before))
    return {"masks": Note(f"another model took its place: the zeros kept in {layers} weights before end here")}


def _require_zeros(before: nn.Module, after: nn.Module, who: str) -> None:
    """Whatever was masked is zero still, in a plain, a masked or a replaced layer of the same name."""
    values = {weight.path: weight.value for weight in masks.named_weights(after)}
    modules = dict(after.named_modules())
    for path, mask in masks.current(before).items():
        dense = getattr(modules.get(path.rpartition(".")[0]), "dense_weight", None)
        value = dense() if dense is not None else values.get(path)
        if value is None or value.shape != mask.shape:
            continue  # the layer is gone: there is nothing left to keep in shape
        refilled = int((value[~mask.to(value.device)] != 0).sum())
        if refilled:
            total = int((~mask).sum())
            raise TechniqueError(f"{who} refilled {refilled} of {total} zeros that an earlier stage made in '{path}'")
