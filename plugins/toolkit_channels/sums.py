"""Scores of whole units: a unit has the sum over all weights that go with it.

These are the rows that make it, the scales of its norms, and the columns of the layers that read it, as in the groups
of Fang et al., "DepGraph: towards any structural pruning", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.structure import Slot, Structure
from toolkit_channels.params import Criterion

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
OF_WEIGHTS: Mapping[Criterion, Callable[[Tensor], Tensor]] = {"l1": torch.abs, "l2": torch.square}
"""How much each element of a weight counts, by criterion."""


def summed_scores(structure: Structure, plain: nn.Module, term: Callable[[Tensor], Tensor]) -> dict[int, float]:
    """Return the score of every unit that may go, relative to the mean of its group.

    Args:
        structure: of the network.
        plain: the network without masks.
        term: returns how much each element of a weight counts, in the weight's shape.
    """
    slots = list(_counted(structure, plain))
    sums = np.zeros(1 + max(int(slot.units.max()) for slot in slots))
    for slot in slots:
        terms = term(plain.get_parameter(slot.path).detach()).movedim(slot.dim, 0)
        np.add.at(sums, slot.units, terms.reshape(len(terms), -1).sum(1).double().cpu().numpy())
    return {
        unit: float(sums[unit] / (sums[list(group.units)].mean() or 1.0))
        for group in structure.groups
        for unit in group.units
    }


def _counted(structure: Structure, plain: nn.Module) -> Iterator[Slot]:
    """Yield the slots of the weights that go with a unit, and of the scales of its norms."""
    for slot in structure.slots:
        layer, _, name = slot.path.rpartition(".")
        is_scale = name == "weight" and isinstance(plain.get_submodule(layer), NORMS)
        if structure.is_parameter(slot.path) and (is_scale or (slot.role != "norm" and structure.is_weight(slot.path))):
            yield slot
