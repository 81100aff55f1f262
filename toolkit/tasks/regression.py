"""Continuous targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.tasks.pooled import Pooled
from toolkit.tasks.task import Batch, Direction, Task

SMALLEST_VARIANCE = 1e-12


class Regression(Task):
    """Continuous values: outputs and targets (N,) or (N, …), mean squared error; (N, 1) and (N,) go together."""

    better: ClassVar[Mapping[str, Direction]] = {"mean_absolute_error": "lower", "r2": "higher"}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean squared error over the batch."""
        return F.mse_loss(*self._pair(outputs, batch))

    def scores(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Pooled]:
        """The mean absolute error of each sample, and R²: the share of the targets' variance that is explained."""
        found, targets = (values.reshape(len(batch), -1).double() for values in self._pair(outputs, batch))
        errors = found - targets
        parts = torch.cat([errors.square().sum(1, keepdim=True), targets.square().sum(1, keepdim=True), targets], dim=1)
        return {"mean_absolute_error": errors.abs().mean(dim=1), "r2": Pooled(parts, _explained)}

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """As many values as targets."""
        if not isinstance(targets, Tensor):
            return f"regression takes a tensor of targets, and they are a {type(targets).__name__}"
        found = tuple(targets.shape[1:])
        if targets.is_complex() or (shape != found and sorted((shape, found)) != [(), (1,)]):
            return f"its targets are {found} a sample, and the outputs of the model are {shape}"
        return None

    def _pair(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs and targets of one shape: (N, 1) and (N,) would be broadcast to (N, N)."""
        found, targets = self.logits(outputs), batch.targets
        return found, targets.to(found.dtype).reshape(found.shape)


def _explained(means: Tensor) -> Tensor:
    """1 − squared errors / squared distances from the mean target, each over all values of a sample."""
    errors, squares, targets = means[0], means[1], means[2:]
    return 1 - errors / (squares - targets.square().sum()).clamp_min(SMALLEST_VARIANCE)
