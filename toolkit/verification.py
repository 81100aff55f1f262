"""What the runner checks of a technique's work, whoever wrote it."""

from __future__ import annotations

from torch import Tensor, nn

from toolkit import masks
from toolkit.assembly import logits_shape
from toolkit.errors import InputError, TechniqueError
from toolkit.recipe import Stage
from toolkit.replaced import replaced_layers
from toolkit.report import Note
from toolkit.tasks import Data


def verify_shape(stage: Stage, before: nn.Module, after: nn.Module, data: Data) -> None:
    """Run both on two samples, which also makes lazy layers: a `TechniqueError` if the outputs' shapes differ."""
    try:
        expected, found = logits_shape(before, data), logits_shape(after, data)
    except InputError as error:
        raise TechniqueError(f"the model that {stage.techniques} returned {error}") from error
    if found != expected:
        raise TechniqueError(
            f"{stage.techniques} returned a model whose outputs are {found} a sample, they were {expected}"
        )


def verify_zeros(stage: Stage, before: nn.Module, after: nn.Module) -> dict[str, Note]:
    """Whatever was masked before a stage is zero after it, or a `TechniqueError`; a note where it ended on purpose."""
    kept = masks.current(before)
    if any(step.params.replaces_model for step in stage.steps):
        text = f"another model took its place: the zeros kept in {len(kept)} weights before end here"
        return {"masks": Note(text)} if kept else {}
    values = _values(after)
    for path, mask in kept.items():
        value = values.get(path)
        if value is None or value.shape != mask.shape:
            continue  # the layer is gone: there is nothing left to keep in shape
        refilled = int((value[~mask.to(value.device)] != 0).sum())
        if refilled:
            raise TechniqueError(
                f"{stage.techniques} refilled {refilled} of {int((~mask).sum())} zeros "
                f"that an earlier stage made in '{path}'"
            )
    return {}


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Every weight as its layer sees it, by path, those of replaced layers included."""
    values = {weight.path: weight.value for weight in masks.named_weights(model)}
    values.update({f"{layer.path}.weight".lstrip("."): layer.weight for layer in replaced_layers(model)})
    return values
