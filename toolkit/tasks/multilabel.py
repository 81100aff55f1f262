"""Multi-label classification: any number of labels per sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.tasks.pooled import Pooled, ratio
from toolkit.tasks.task import Batch, Direction, Task


class MultiLabel(Task):
    """Any of L labels per sample: logits (N, L), targets (N, L) of 0 and 1, binary cross-entropy.

    The model predicts a label if its logit is above 0. A sample is correct if all its labels are.
    """

    better: ClassVar[Mapping[str, Direction]] = {"f1": "higher", "label_accuracy": "higher"}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the binary cross-entropy, averaged over labels and samples."""
        logits = self.logits(outputs)
        return F.binary_cross_entropy_with_logits(logits, batch.targets.to(logits.dtype))

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Return T² · KL(reference ‖ logits) of each label at temperature T, averaged over labels and samples."""
        student, teacher = logits / temperature, reference / temperature
        present = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
        absent = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
        return temperature**2 * (present + absent).mean()

    def correct(self, outputs: Any, batch: Batch) -> Tensor:
        """Return whether all labels of a sample are correct: (N,) bool."""
        return self._correct_labels(outputs, batch).all(dim=1)

    def answers(self, outputs: Any) -> Tensor:
        """Return which labels the model predicts: (N, L) bool."""
        return self.logits(outputs) > 0

    def scores(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Pooled]:
        """Return F1, pooled over all labels and samples, and the fraction of correct labels per sample."""
        predicted, targets = self.answers(outputs), batch.targets.bool()
        true_positives = (predicted & targets).sum(dim=1)
        parts = torch.stack([2 * true_positives, predicted.sum(dim=1) + targets.sum(dim=1)], dim=1)
        return {"f1": Pooled(parts, _f1), "label_accuracy": self._correct_labels(outputs, batch).double().mean(dim=1)}

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """Return an error message unless there is one logit and one target, 0 or 1, per label."""
        if not isinstance(targets, Tensor):
            return f"multi-label requires a tensor of targets, found {type(targets).__name__}"
        target_shape = tuple(targets.shape[1:])
        if len(shape) != 1 or target_shape != shape:
            return (
                f"multi-label requires one logit per label, found logits {shape} and targets {target_shape} per sample"
            )
        is_binary = targets.dtype == torch.bool or bool(((targets == 0) | (targets == 1)).all())
        return None if is_binary else "multi-label requires targets of 0 and 1, found other values"

    def _correct_labels(self, outputs: Any, batch: Batch) -> Tensor:
        return self.answers(outputs) == batch.targets.bool()


def _f1(means: Tensor) -> Tensor:
    """Return F1; 1 if there is no label, neither predicted nor in the targets."""
    return ratio(means) if means[1].detach() else means.sum() + 1
