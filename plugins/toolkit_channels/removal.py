"""Cuts units out of a network, and checks that the network computes what it would with the units masked."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import toolkit
from toolkit import cutting, masks
from toolkit_channels.structure import Structure

MAX_DIFFERENCE = 1e-3  # of the largest output; rounding alone, TF32 included, stays below
REMEDY = "exclude the layers on whose number of channels its forward depends"


def remove(model: nn.Module, structure: Structure, units: Collection[int], data: toolkit.Data) -> None:
    """Cut units out of a network, in place.

    Raises:
        TechniqueError: the smaller network cannot run, or computes something else than the masked one.
    """
    masked = masks.folded(model)
    masks.apply(masked, structure.masks(units))
    cutting.cut(model, structure.indices(units))
    expected = _outputs(masked, data)
    try:
        difference = (_outputs(masks.folded(model), data) - expected).abs().max()
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise toolkit.TechniqueError(
            f"the network does not run without some of its channels ({reason}); {REMEDY}"
        ) from error
    if not difference <= MAX_DIFFERENCE * expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny):
        raise toolkit.TechniqueError(
            f"the network's outputs differ by {difference:.2g} from those with the channels masked; {REMEDY}"
        )


def drop_idle_masks(model: nn.Module) -> None:
    """Turn layers whose masks have no zero into plain layers."""
    current = masks.current(model)
    for path, module in list(model.named_modules()):
        if parametrize.is_parametrized(module):
            lists: object = module.parametrizations
            names = list(lists)  # type: ignore[call-overload]
            found = [current.get(f"{path}.{name}".lstrip(".")) for name in names]
            if all(mask is not None and bool(mask.all()) for mask in found):
                masks.fold(module)


@torch.no_grad()
def _outputs(model: nn.Module, data: toolkit.Data) -> Tensor:
    batch = data.example(2)
    return data.task.logits(data.task.forward(model.eval(), batch)).float()
