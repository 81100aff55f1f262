"""How many samples a model answers rightly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.metrics.deployed import in_eval_mode
from toolkit.tasks import Batch, Data


def accuracy(model: nn.Module, data: Data, split: str = "test") -> dict[str, float]:
    """The share of right answers over one split.

    Args:
        model: on `data.device`; asked in eval mode, and left as it was.
        data: its task says which answers are right.
        split: `train`, `validation` or `test`; none is taken in place of another.

    Returns:
        `accuracy`, a fraction from 0 to 1, and `samples`, an int.

    Raises:
        ValueError: the data has no such split.
        ToolkitError: the split is empty, or the task does not say one thing about each sample.
    """
    right = answers(model, data, split)
    return {"accuracy": right.double().mean().item(), "samples": len(right)}


@torch.no_grad()
def answers(model: nn.Module, data: Data, split: str = "test") -> Tensor:
    """Which samples of one split are answered rightly: (N,) bool on the CPU, in the order of the split.

    Two models can be compared sample by sample, which says more than two accuracies do. Arguments and errors
    as in `accuracy`.
    """
    if not data.samples(split):
        raise ToolkitError(f"the {split} split has no samples to measure with")
    with in_eval_mode(model):
        right = [_right(model, data, batch) for batch in data.batches(split)]
    return torch.cat(right).cpu()


def _right(model: nn.Module, data: Data, batch: Batch) -> Tensor:
    right = data.task.correct(data.task.forward(model, batch), batch)
    if right.dtype != torch.bool or right.shape != (len(batch),):
        raise ToolkitError(
            f"{type(data.task).__name__}.correct must return ({len(batch)},) bool for {len(batch)} samples "
            f"and returned {tuple(right.shape)} {str(right.dtype).removeprefix('torch.')}"
        )
    return right
