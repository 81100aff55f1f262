"""Soft targets: the student's outputs are drawn towards those of its teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

import toolkit
from toolkit_distillation.teachers import Lesson


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of the softened distributions, averaged over the samples: a scalar.

    Args:
        student: logits (N, …, C), float32.
        teacher: logits of the same shape.
        temperature: T > 0; T² keeps the gradients' size independent of it (section 2 of the paper).
    """
    student, teacher = (logits.reshape(-1, logits.shape[-1]) / temperature for logits in (student, teacher))
    divergence = F.kl_div(
        F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1), reduction="batchmean", log_target=True
    )
    return temperature**2 * divergence


def soft_loss(
    task: toolkit.Task, outputs: Any, lessons: Sequence[Lesson], shares: Sequence[float], temperature: float
) -> Tensor:
    """The mean of the distances to all teachers, weighted by their shares.

    Its gradient is that of the distance to the mean of their softened distributions.
    """
    logits = task.logits(outputs)
    losses = [
        share / sum(shares) * distillation_loss(logits, lesson.logits, temperature)
        for share, lesson in zip(shares, lessons, strict=True)
    ]
    return sum(losses[1:], losses[0])
