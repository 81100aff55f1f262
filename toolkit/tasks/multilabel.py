"""Several labels, each of which a sample has or has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.tasks.pooled import Pooled, ratio
from toolkit.tasks.task import Batch, Direction, Task


class MultiLabel(Task):
    """L labels, any of which may be given: logits (N, L), targets (N, L) of 0 and 1, binary cross-entropy.

    A label is given where its logit is above 0. A sample is right if all its labels are.
    """

    better: ClassVar[Mapping[str, Direction]] = {"f1": "higher", "label_accuracy": "higher"}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The binary cross-entropy, averaged over labels and samples."""
        logits = self.logits(outputs)
        return F.binary_cross_entropy_with_logits(logits, batch.targets.to(logits.dtype))

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """T² · KL of each label's two probabilities, softened by T, averaged over labels and samples."""
        own, other = logits / temperature, reference / temperature
        yes = other.sigmoid() * (F.logsigmoid(other) - F.logsigmoid(own))
        no = (-other).sigmoid() * (F.logsigmoid(-other) - F.logsigmoid(-own))
        return temperature**2 * (yes + no).mean()

    def correct(self, outputs: Any, batch: Batch) -> Tensor:
        """Whether all labels of a sample are right: (N,) bool."""
        return self._right(outputs, batch).all(dim=1)

    def answers(self, outputs: Any) -> Tensor:
        """Which labels are given: (N, L) bool."""
        return self.logits(outputs) > 0

    def scores(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Pooled]:
        """F1 over all labels of all samples together, and the share of each sample's labels that are right."""
        given, wanted = self.answers(outputs), batch.targets.bool()
        found = (given & wanted).sum(dim=1)
        parts = torch.stack([2 * found, given.sum(dim=1) + wanted.sum(dim=1)], dim=1)
        return {"f1": Pooled(parts, _f1), "label_accuracy": self._right(outputs, batch).double().mean(dim=1)}

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """One logit and one target, 0 or 1, for each label."""
        if not isinstance(targets, Tensor):
            return f"multi-label takes a tensor of targets, and they are a {type(targets).__name__}"
        found = tuple(targets.shape[1:])
        if len(shape) != 1 or found != shape:
            return f"its targets are {found} a sample, and the logits of the model are {shape}: one for each label"
        inside = targets.dtype == torch.bool or bool(((targets == 0) | (targets == 1)).all())
        return None if inside else "its targets are not all 0 or 1, one for each label"

    def _right(self, outputs: Any, batch: Batch) -> Tensor:
        return self.answers(outputs) == batch.targets.bool()


def _f1(means: Tensor) -> Tensor:
    """1 where nothing is wanted and nothing given."""
    return ratio(means) if means[1].detach() else means.sum() + 1
