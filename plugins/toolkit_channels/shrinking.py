"""Shrinking: while the stage trains, the loss draws the units that will go towards zero, so that the cut costs little.

The units are chosen when the training begins, and the pull grows, as in Wang et al., "Neural pruning via growing
regularization", ICLR 2021. It is a group lasso on everything that makes a unit: the rows of its weights, as in Fang et
al., "DepGraph: towards any structural pruning", CVPR 2023, and the scales of batch norms, as in Liu et al., "Network
slimming", ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import toolkit
from toolkit import masks, scoring
from toolkit.structure import Structure, remove
from toolkit_channels.params import Params

RAMP_SHARE = 0.5  # of the training, in which the pull grows; then it stays
MAX_SCORED_SAMPLES = 4096


def group_norms(weight: Tensor, dim: int, goes: Tensor) -> Tensor:
    """Return the sum of the Euclidean norms of a tensor's slices along `dim`, of those that go.

    Args:
        weight: of any shape.
        dim: the dimension of the units.
        goes: (weight.shape[dim],), 1 for a slice that goes and 0 for one that stays.
    """
    slices = weight.movedim(dim, 0).reshape(weight.shape[dim], -1)
    return (torch.linalg.vector_norm(slices, dim=1) * goes).sum()


class Shrinking(nn.Module):
    """The units that go, and how strong the pull is: buffers, so that an interrupted training goes on with both.

    Attributes:
        structure: the network when the training began.
        goes: 1 for a unit that goes and 0 for one that stays, by number.
        strength: share of the full pull, which grows from 0 to 1.
        norm_before: sum of the norms of all that makes the units that go, when the training began.
    """

    goes: Tensor
    strength: Tensor

    def __init__(self, model: nn.Module, structure: Structure, units: Collection[int]) -> None:
        super().__init__()
        self.structure = structure
        self._slots = list(structure.makers())
        goes = torch.zeros(1 + max(int(slot.units.max()) for slot in self._slots))
        goes[sorted(units)] = 1.0
        self.register_buffer("goes", goes)
        self.register_buffer("strength", torch.zeros(()))
        for number, slot in enumerate(self._slots):
            self.register_buffer(f"units{number}", torch.from_numpy(slot.units.copy()), persistent=False)
        self._weights: dict[str, masks.Weight] = {}
        with torch.no_grad():
            self.norm_before = float(self.to(next(model.parameters()).device).norm(model))

    @property
    def units(self) -> set[int]:
        """The numbers of the units that go."""
        return set(self.goes.nonzero().flatten().tolist())

    def norm(self, model: nn.Module) -> Tensor:
        """Return the sum of the norms of all that makes the units that go, in each tensor of a model by itself."""
        with self.seeing(model):
            return self.penalty()

    def penalty(self) -> Tensor:
        """Return the same sum for the model of the step that runs."""
        total = torch.zeros((), device=self.goes.device)
        for number, slot in enumerate(self._slots):
            weight = self._weights[slot.path]
            goes = self.goes[self.get_buffer(f"units{number}")]
            total = total + group_norms(getattr(weight.module, weight.attribute).float(), slot.dim, goes)
        return total

    @contextmanager
    def seeing(self, model: nn.Module) -> Iterator[None]:
        """Look at the weights of this model, as its layers see them."""
        self._weights = {weight.path: weight for weight in masks.named_weights(model)}
        try:
            yield
        finally:
            self._weights = {}

    def grow(self, step: int, steps: int) -> None:
        """Strengthen the pull after a step."""
        self.strength.fill_(min(1.0, step / (RAMP_SHARE * steps)))

    def added_to(self, training: toolkit.Training, shrink: float) -> toolkit.Training:
        """Return the training with `shrink` times the pull in its loss."""

        def loss(outputs: Any, batch: toolkit.Batch) -> Tensor:
            return training.loss(outputs, batch) + shrink * self.strength * self.penalty()

        return training.using(loss=loss, after_step=self.grow, trained_along=self, around_step=self.seeing)


def cut_shrunk(model: nn.Module, shrinking: Shrinking, params: Params, data: toolkit.Data) -> dict[str, float]:
    """Cut out the units that go, in place, and return what this costs and how much was left of them."""
    before = scoring.score(model, data, MAX_SCORED_SAMPLES)
    with torch.no_grad():
        norm = float(shrinking.norm(model))
    remove(model, shrinking.structure, shrinking.units, data)
    if params.reestimate:
        toolkit.reestimate(model, data)
    after = scoring.score(model, data, MAX_SCORED_SAMPLES)
    return {"drop": drop(before, after), "norm_left": norm / (shrinking.norm_before or 1.0)}


def drop(before: scoring.Score, after: scoring.Score) -> float:
    """Return how much worse a score is: in points if it is a fraction, else in percent of the score before."""
    scale = 1.0 if before.is_fraction else max(abs(before.value), torch.finfo(torch.float64).tiny)
    return 100.0 * after.drop_from(before) / scale
