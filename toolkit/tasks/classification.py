"""Classification: one class per sample."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from toolkit.tasks.task import Batch, Task


class Classification(Task):
    """One of C classes per sample: logits (N, C), targets (N,) int64, cross-entropy."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean cross-entropy over the batch."""
        return F.cross_entropy(self.logits(outputs), batch.targets)

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Return the `softened_divergence` between the reference's class probabilities and the model's."""
        return softened_divergence(logits, reference, temperature)

    def correct(self, outputs: Any, batch: Batch) -> Tensor:
        """Return whether the largest logit is that of the target: (N,) bool."""
        return self.answers(outputs) == batch.targets

    def answers(self, outputs: Any) -> Tensor:
        """Return the class with the largest logit: (N,) int64."""
        return self.logits(outputs).argmax(dim=1)

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """Return an error message unless there is one logit per class, and one class per sample."""
        if len(shape) != 1:
            return f"classification requires logits (N, classes), found (N, {_comma_separated(shape)})"
        if not isinstance(targets, Tensor) or targets.dim() != 1:
            found = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            return f"classification requires targets (N,), one class per sample, found {found}"
        return class_mismatch(targets, shape[-1])


def softened_divergence(logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T² · KL(reference ‖ logits) of the class probabilities at temperature T, averaged over the samples.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Args:
        logits: (N, …, C), float32.
        reference: of the same shape.
        temperature: T > 0; the factor T² makes the scale of the gradients independent of it (section 2 of the paper).
    """
    student, teacher = (
        F.log_softmax(values.reshape(-1, values.shape[-1]) / temperature, dim=1) for values in (logits, reference)
    )
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def class_mismatch(targets: Tensor, classes: int) -> str | None:
    """Return an error message if the targets are not class indices below `classes`, else None."""
    if targets.is_floating_point() or targets.is_complex():
        return f"targets must be class indices in int64, found {str(targets.dtype).removeprefix('torch.')}"
    if not targets.numel():
        return None
    for target in (int(targets.min()), int(targets.max())):
        if not 0 <= target < classes:
            return f"targets must be class indices from 0 to {classes - 1}, found {target}"
    return None


def _comma_separated(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
