"""Classes that are left out of a training: the student is never shown a sample of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import toolkit
from toolkit_distillation.features import evaluated
from toolkit_distillation.teachers import logits_of


def positions_without(targets: Tensor, classes: Sequence[int]) -> Tensor:
    """Where targets, int (N,), are none of the classes: int64 (M,), ascending."""
    left_out = torch.tensor(classes, dtype=targets.dtype, device=targets.device)
    return (~torch.isin(targets, left_out)).nonzero().flatten()


def samples_without(classes: Sequence[int], model: nn.Module, data: toolkit.Data) -> Tensor:
    """The positions of the training samples of all other classes, int64 (M,) on the CPU.

    A `TechniqueError` where a sample has no class or one that the model does not tell apart, or none is left.
    """
    if not isinstance(data.task, toolkit.Classification):
        found = type(data.task).__name__
        raise toolkit.TechniqueError(f"without_classes is for tasks with one class a sample, and this is a {found}")
    with evaluated(model):
        known = logits_of(model, data.task, data.example(1)).shape[1]
    if max(classes) >= known:
        raise toolkit.TechniqueError(
            f"without_classes has {max(classes)}, and the classes of the model are 0 to {known - 1}"
        )
    targets = torch.cat([batch.targets.cpu() for batch in data.batches("train")])
    positions = positions_without(targets, classes)
    if not len(positions):
        raise toolkit.TechniqueError(
            f"without_classes leaves none of the {len(targets)} training samples: leave fewer classes out"
        )
    return positions
