"""How good a model is on the selection split: the number that guards, scans and searches decide by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.data.splits import Data
from toolkit.errors import ToolkitError
from toolkit.eval_mode import in_eval_mode
from toolkit.tasks import Batch, Direction, Pooled

__all__ = ["Score", "score"]


@dataclass(frozen=True)
class Score:
    """A model's value of the primary metric, the first that the report shows; the loss where there is no other.

    `values` (N,) float64 on the CPU has one value per sample, in the order of the split, and `value` is their mean:
    subtract the values of another model's score for a paired comparison. For a `Pooled` metric each value is a sample's
    first-order contribution. `better` says whether `higher` or `lower` is better.
    """

    metric: str
    better: Direction
    value: float
    values: Tensor
    is_fraction: bool
    """Whether all that was averaged lies between 0 and 1, as it does for an accuracy."""

    @property
    def samples(self) -> int:
        """How many samples were scored."""
        return len(self.values)

    def drop_from(self, before: Score) -> float:
        """Return how much worse this score is than another one of the same metric; negative where it is better."""
        return before.value - self.value if self.better == "higher" else self.value - before.value


@torch.no_grad()
def score(
    model: nn.Module,
    data: Data,
    max_samples: int | None = None,
    on_batch: Callable[[Any, Batch], object] | None = None,
) -> Score:
    """Score a model in eval mode on `data.selection_split`; the model is left as it was.

    Args:
        model: on `data.device`.
        data: its task and metrics say what the primary metric is.
        max_samples: samples to score, spread evenly over the split, which may be sorted by class; all by default.
            Scores of one data source with the same `max_samples` are of the same samples.
        on_batch: called with the outputs and the batch, for what else is needed of the same pass.

    Raises:
        ToolkitError: the split is empty, or the task does not give one value per sample.
    """
    count = data.samples(data.selection_split)
    if not count:
        raise ToolkitError(f"the {data.selection_split} split has no samples to score a model on")
    metric, better = next(iter(data.quality.items()))
    parts = []
    with in_eval_mode(model):
        for batch in data.batches(data.selection_split, order=_spread(count, max_samples)):
            outputs = data.task.forward(model, batch)
            parts.append(one_per_sample(_primary(metric, outputs, batch, data), batch, metric))
            if on_batch is not None:
                on_batch(outputs, batch)
    values = joined(parts)
    pooled = [part for part in parts if isinstance(part, Pooled)]
    averaged = Pooled.joined(pooled).metric() if pooled else values
    return Score(metric, better, float(averaged.mean()), values, bool(((averaged >= 0) & (averaged <= 1)).all()))


def one_per_sample(value: Any, batch: Batch, name: str) -> Tensor | Pooled:
    """Return what a metric gives for a batch, if it is one value or, `Pooled`, one row of parts per sample.

    Raises:
        ToolkitError: it is neither.
    """
    if isinstance(value, Pooled):
        if value.parts.dim() != 2 or len(value.parts) != len(batch):
            shape = tuple(value.parts.shape)
            raise ToolkitError(f"the parts of '{name}' must have shape ({len(batch)}, parts), found {shape}")
        return value
    return require_one_per_sample(value, batch, name)


def require_one_per_sample(value: Any, batch: Batch, name: str) -> Tensor:
    """Return what a metric gives for a batch, if it is a tensor (N,).

    Raises:
        ToolkitError: it is not.
    """
    if not isinstance(value, Tensor) or value.shape != (len(batch),):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ToolkitError(f"'{name}' must be a tensor of one value per sample, ({len(batch)},), found {found}")
    return value


def joined(parts: Sequence[Tensor | Pooled]) -> Tensor:
    """Return one value per sample of all batches, (N,) float64 on the CPU."""
    pooled = [part for part in parts if isinstance(part, Pooled)]
    if pooled:
        return Pooled.joined(pooled).values()
    return torch.cat([part.double().cpu() for part in parts if isinstance(part, Tensor)])


def _primary(metric: str, outputs: Any, batch: Batch, data: Data) -> Any:
    if metric == "accuracy" and data.has_right_answers:
        return data.task.correct(outputs, batch)
    if metric in data.task.better:
        return data.task.scores(outputs, batch)[metric]
    if metric in data.metrics:
        return data.metrics[metric](outputs, batch)
    return data.task.loss(outputs, batch).expand(len(batch))


def _spread(count: int, max_samples: int | None) -> Tensor | None:
    if max_samples is None or max_samples >= count:
        return None
    return torch.linspace(0, count - 1, max_samples, dtype=torch.float64).long()
