"""One class out of several."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from toolkit.tasks.task import Batch, Task


class Classification(Task):
    """One class out of C: logits (N, C), targets (N,) int64, cross-entropy, the largest logit is the answer."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean cross-entropy over the batch."""
        return F.cross_entropy(self.logits(outputs), batch.targets)

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """`softened_divergence` of the reference's classes from the model's."""
        return softened_divergence(logits, reference, temperature)

    def correct(self, outputs: Any, batch: Batch) -> Tensor:
        """Whether the largest logit is the target's: (N,) bool."""
        return self.answers(outputs) == batch.targets

    def answers(self, outputs: Any) -> Tensor:
        """The class with the largest logit: (N,) int64."""
        return self.logits(outputs).argmax(dim=1)

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """One number for each class, and one class for each sample."""
        if len(shape) != 1:
            return f"classification takes logits (N, classes), and those of the model are (N, {_listed(shape)})"
        if not isinstance(targets, Tensor) or targets.dim() != 1:
            found = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            return f"classification takes targets (N,), the number of a class each, and they are {found}"
        return wrong_classes(targets, shape[-1])


def softened_divergence(logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(reference ‖ logits) of the distributions that both softened by T make, averaged over the samples.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Args:
        logits: (N, …, C), float32.
        reference: of the same shape.
        temperature: T > 0; T² keeps the gradients' size independent of it (section 2 of the paper).
    """
    own, other = (each.reshape(-1, each.shape[-1]) / temperature for each in (logits, reference))
    divergence = F.kl_div(
        F.log_softmax(own, dim=1), F.log_softmax(other, dim=1), reduction="batchmean", log_target=True
    )
    return temperature**2 * divergence


def wrong_classes(targets: Tensor, classes: int) -> str | None:
    """Why these numbers of classes are none of so many."""
    if targets.is_floating_point() or targets.is_complex():
        return f"its targets are {str(targets.dtype).removeprefix('torch.')}, and classes are numbered by int64"
    if not targets.numel():
        return None
    low, high = int(targets.min()), int(targets.max())
    if low < 0:
        return f"its targets go down to {low}, and classes are numbered from 0"
    return f"its targets go up to {high}, and the model tells only {classes} classes apart" if high >= classes else None


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
