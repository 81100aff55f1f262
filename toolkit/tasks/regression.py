"""Regression: continuous targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.tasks.pooled import Pooled
from toolkit.tasks.task import Batch, Direction, Task

MIN_VARIANCE = 1e-12


class Regression(Task):
    """Continuous values: outputs and targets (N,) or (N, …), mean squared error; (N, 1) matches (N,)."""

    better: ClassVar[Mapping[str, Direction]] = {"mean_absolute_error": "lower", "r2": "higher"}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean squared error over the batch."""
        return F.mse_loss(*self._pair(outputs, batch))

    def scores(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Pooled]:
        """Return the mean absolute error per sample, and R², the explained fraction of the targets' variance."""
        predictions, targets = (values.reshape(len(batch), -1).double() for values in self._pair(outputs, batch))
        errors = predictions - targets
        parts = torch.cat([errors.square().sum(1, keepdim=True), targets.square().sum(1, keepdim=True), targets], dim=1)
        return {"mean_absolute_error": errors.abs().mean(dim=1), "r2": Pooled(parts, _explained)}

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """Return an error message unless outputs and targets have the same shape."""
        if not isinstance(targets, Tensor):
            return f"regression requires a tensor of targets, found {type(targets).__name__}"
        if targets.is_complex():
            return f"regression requires real targets, found {str(targets.dtype).removeprefix('torch.')}"
        target_shape = tuple(targets.shape[1:])
        if shape != target_shape and sorted((shape, target_shape)) != [(), (1,)]:
            found = f"outputs {shape} and targets {target_shape} per sample"
            return f"regression requires one output per target, found {found}"
        return None

    def _pair(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return outputs and targets in the same shape; (N, 1) and (N,) would broadcast to (N, N)."""
        predictions = self.logits(outputs)
        return predictions, batch.targets.to(predictions.dtype).reshape(predictions.shape)


def _explained(means: Tensor) -> Tensor:
    """Return R²: 1 − squared errors / squared distances from the mean target, each summed over a sample's values."""
    errors, squares, targets = means[0], means[1], means[2:]
    return 1 - errors / (squares - targets.square().sum()).clamp_min(MIN_VARIANCE)
