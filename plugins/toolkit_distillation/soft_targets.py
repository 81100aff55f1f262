"""Soft targets: a loss that draws the student's outputs towards those of its teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import toolkit
from toolkit_distillation.teachers import Lesson


def soft_loss(
    task: toolkit.Task,
    outputs: Any,
    batch: toolkit.Batch,
    lessons: Sequence[Lesson],
    shares: Sequence[float],
    temperature: float,
) -> Tensor:
    """Return the mean of the distances to all teachers, weighted by their shares.

    For outputs that are distributions, its gradient is that of the distance to the mean of the softened distributions.
    """
    logits = task.logits(outputs)
    losses = [
        share / sum(shares) * task.distance(logits, lesson.logits, batch, temperature)
        for share, lesson in zip(shares, lessons, strict=True)
    ]
    return sum(losses[1:], losses[0])
