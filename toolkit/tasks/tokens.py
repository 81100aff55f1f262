"""A class for every position of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.tasks.classification import softened_divergence, wrong_classes
from toolkit.tasks.pooled import Pooled, ratio
from toolkit.tasks.task import Batch, Direction, Task

IGNORED = -100  # what `cross_entropy` and those who make such data take for "no target here"


class TokenClassification(Task):
    """One class out of C for each token: logits (N, L, C), targets (N, L) int64, in which −100 is not counted."""

    better: ClassVar[Mapping[str, Direction]] = {"token_accuracy": "higher"}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean cross-entropy over all tokens of the batch that count; 0 if none does."""
        logits, counted = self.logits(outputs), self.counted(batch)
        if not counted.any():
            return logits.sum() * 0
        return F.cross_entropy(logits[counted], batch.targets[counted])

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """`softened_divergence` of the tokens that count; 0 if none does."""
        counted = self.counted(batch)
        if not counted.any():
            return logits.sum() * 0
        return softened_divergence(logits[counted], reference[counted], temperature)

    def answers(self, outputs: Any) -> Tensor:
        """The class with the largest logit of each token: (N, L) int64."""
        return self.logits(outputs).argmax(dim=-1)

    def counted(self, batch: Batch) -> Tensor:
        """Which tokens have a target: (N, L) bool."""
        return batch.targets != IGNORED

    def scores(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Pooled]:
        """The share of all tokens that are right, long sequences counting for more."""
        right = (self.answers(outputs) == batch.targets).sum(dim=1)
        return {"token_accuracy": Pooled(torch.stack([right, self.counted(batch).sum(dim=1)], dim=1), ratio)}

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """One number for each class of each token, and one class for each token."""
        if len(shape) != 2:
            return f"token classification takes logits (N, length, classes), and the model's are {shape} a sample"
        if not isinstance(targets, Tensor) or tuple(targets.shape[1:]) != shape[:1]:
            found = tuple(targets.shape[1:]) if isinstance(targets, Tensor) else type(targets).__name__
            return f"its targets are {found} a sample, and must be {shape[:1]}: a class for each token"
        return wrong_classes(targets[targets != IGNORED], shape[-1])
