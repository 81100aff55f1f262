"""Token classification: one class per position of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.tasks.classification import class_mismatch, softened_divergence
from toolkit.tasks.pooled import Pooled, ratio
from toolkit.tasks.task import Batch, Direction, Task

IGNORE_INDEX = -100  # the default of `cross_entropy`, and the convention in datasets


class TokenClassification(Task):
    """One of C classes per token: logits (N, L, C), targets (N, L) int64; tokens with the target −100 are ignored."""

    better: ClassVar[Mapping[str, Direction]] = {"token_accuracy": "higher"}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean cross-entropy over the counted tokens of the batch; 0 if there are none."""
        logits, counted = self.logits(outputs), self.counted(batch)
        if not counted.any():
            return logits.sum() * 0
        return F.cross_entropy(logits[counted], batch.targets[counted])

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Return the `softened_divergence` over the counted tokens; 0 if there are none."""
        counted = self.counted(batch)
        if not counted.any():
            return logits.sum() * 0
        return softened_divergence(logits[counted], reference[counted], temperature)

    def answers(self, outputs: Any) -> Tensor:
        """Return the class with the largest logit for each token: (N, L) int64."""
        return self.logits(outputs).argmax(dim=-1)

    def counted(self, batch: Batch) -> Tensor:
        """Return which tokens have a target: (N, L) bool."""
        return batch.targets != IGNORE_INDEX

    def scores(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Pooled]:
        """Return the fraction of correct tokens, pooled over all sequences."""
        correct = (self.answers(outputs) == batch.targets).sum(dim=1)
        return {"token_accuracy": Pooled(torch.stack([correct, self.counted(batch).sum(dim=1)], dim=1), ratio)}

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """Return an error message unless there is one logit per class and token, and one class per token."""
        if len(shape) != 2:
            return f"token-classification requires logits (N, length, classes), found {shape} per sample"
        if not isinstance(targets, Tensor) or tuple(targets.shape[1:]) != shape[:1]:
            found = tuple(targets.shape[1:]) if isinstance(targets, Tensor) else type(targets).__name__
            return f"token-classification requires one class per token, {shape[:1]} per sample, found {found}"
        return class_mismatch(targets[targets != IGNORE_INDEX], shape[-1])
