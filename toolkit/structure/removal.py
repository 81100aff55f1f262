"""Cuts units out of a network, and checks that the network computes what it would with the units masked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import cutting, masks
from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.structure.groups import Structure
from toolkit.structure.heads import state_heads
from toolkit.structure.slots import SAMPLES

MAX_DIFFERENCE = 1e-3  # of the largest output; rounding alone, TF32 included, stays below
REMEDY = "exclude the layers on whose number of channels its forward depends"


def remove(model: nn.Module, structure: Structure, units: Collection[int], data: Data) -> None:
    """Cut units out of a network, in place.

    Raises:
        TechniqueError: the smaller network cannot run, or computes something else than the masked one.
    """
    masked = masks.folded(model)
    masks.apply(masked, structure.masks(units))
    cut(model, structure, units)
    expected = outputs_of(masked, data)
    try:
        outputs = outputs_of(masks.folded(model), data)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TechniqueError(f"the network does not run without some of its channels ({reason}); {REMEDY}") from error
    check_same(outputs, expected, "the channels masked")


def check_same(outputs: Tensor, expected: Tensor, state: str) -> None:
    """Raise a `TechniqueError` if a network's outputs are not those that it has in another state."""
    difference = (outputs - expected).abs().max()
    if not difference <= MAX_DIFFERENCE * expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny):
        raise TechniqueError(f"the network's outputs differ by {difference:.2g} from those with {state}; {REMEDY}")


def cut(model: nn.Module, structure: Structure, units: Collection[int]) -> None:
    """Cut units out of a network, in place, unchecked."""
    cutting.cut(model, structure.indices(units))
    state_heads(model, structure.attentions)


def drop_idle_masks(model: nn.Module) -> None:
    """Turn layers with nothing but masks without a zero into plain layers."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            lists: Any = module.parametrizations
            parts = [part for name in lists for part in lists[name]]
            if all(isinstance(part, masks.Mask) and bool(part.mask.all()) for part in parts):
                masks.fold(module)


@torch.no_grad()
def outputs_of(model: nn.Module, data: Data) -> Tensor:
    """Return what a network answers on two samples, in eval mode."""
    batch = data.example(SAMPLES)
    return data.task.logits(data.task.forward(model.eval(), batch)).float()
