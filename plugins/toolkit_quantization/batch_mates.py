"""How far the answer to a sample depends on the other samples of its batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit import Data
from toolkit_quantization.conversion_cost import relative_error

MAX_SAMPLES = 64


class Dependence(NamedTuple):
    """The change of the outputs from batch 1 to a batch of `samples`, relative to their size, and of the answers.

    `agreement` is the fraction of equal answers, None for a task without discrete answers.
    """

    error: float
    agreement: float | None
    samples: int

    def __str__(self) -> str:
        """As a sentence."""
        answers = "" if self.agreement is None else f", and {self.agreement:.1%} of the answers are the same"
        return (
            "the samples of a batch share the scales of recurrent layers, so that an answer depends on its batch "
            f"mates: from batch 1 to batch {self.samples} the outputs change by {self.error:.2g} of their size{answers}"
        )


@torch.no_grad()
def dependence(model: nn.Module, data: Data) -> Dependence:
    """Compare the outputs of samples in one batch with those of the same samples alone."""
    split, task = data.selection_split, data.task
    samples = min(MAX_SAMPLES, max(2, data.batch_size), data.samples(split))
    by_size = {size: data.batches(split, order=torch.arange(samples), batch_size=size) for size in (1, samples)}
    alone, (outputs,) = ([task.forward(model.eval(), batch) for batch in batches] for batches in by_size.values())
    error = relative_error(torch.cat([task.logits(each).double() for each in alone]), task.logits(outputs).double())
    return Dependence(error, _agreement([task.answers(each) for each in alone], task.answers(outputs)), samples)


def _agreement(alone: list[Tensor | None], together: Tensor | None) -> float | None:
    answers = [each for each in alone if each is not None]
    if together is None or not answers:
        return None
    return float((torch.cat(answers) == together).reshape(len(answers), -1).all(dim=1).double().mean())
