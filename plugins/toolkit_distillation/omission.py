"""Leaves classes out of a training: the student never sees a sample of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import toolkit
from toolkit_distillation.features import evaluated
from toolkit_distillation.teachers import logits_of


def positions_without(targets: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the positions of targets, int (N,), that are none of the classes: int64 (M,), ascending."""
    left_out = torch.tensor(classes, dtype=targets.dtype, device=targets.device)
    return (~torch.isin(targets, left_out)).nonzero().flatten()


def samples_without(classes: Sequence[int], model: nn.Module, data: toolkit.Data) -> Tensor:
    """Return the positions of the training samples of all other classes, int64 (M,) on the CPU.

    Raises:
        TechniqueError: the task has no classes, the model does not have one of these, or no sample is left.
    """
    if not isinstance(data.task, toolkit.Classification):
        task = type(data.task).__name__
        raise toolkit.TechniqueError(f"without_classes needs a task with one class per sample, but the task is {task}")
    with evaluated(model):
        known = logits_of(model, data.task, data.example(1)).shape[1]
    if max(classes) >= known:
        raise toolkit.TechniqueError(
            f"without_classes lists {max(classes)}, but the model has classes 0 to {known - 1}"
        )
    targets = torch.cat([batch.targets.cpu() for batch in data.batches("train")])
    positions = positions_without(targets, classes)
    if not len(positions):
        raise toolkit.TechniqueError(
            f"without_classes leaves none of the {len(targets)} training samples; leave fewer classes out"
        )
    return positions
