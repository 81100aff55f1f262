"""Whether an exported file gives the same answers as the model that it was exported from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.tasks import Batch

# Runtimes add in another order, and where a layer rounds to integers, the last bit decides between two of them.
MAX_OUTPUT_ERROR = 0.01
# Where every layer of a deep network rounds, these bits add up: a static int8 ResNet-18 of random weights differs by
# 0.017 between float32 and float64 in PyTorch alone.
MAX_ROUNDED_OUTPUT_ERROR = 0.05
MIN_AGREEMENT = 0.99


@dataclass(frozen=True)
class Comparison:
    """How a file's outputs differ from the model's on the same samples.

    `output_error` is the root mean square of the difference, relative to that of the model's outputs; `agreement` the
    fraction of samples with the same answer, None for a task without discrete answers; `samples` the number of samples;
    `max_output_error` what is allowed.
    """

    output_error: float
    agreement: float | None
    samples: int
    max_output_error: float = MAX_OUTPUT_ERROR

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f", and {self.agreement:.2%} of the answers agree"
        return (
            f"because its outputs differ by {self.output_error:.2g} of their size (at most {self.max_output_error:g})"
            f"{agreement} (at least {MIN_AGREEMENT:.0%}, or all but one) on {self.samples:,} samples"
        )

    @property
    def is_close(self) -> bool:
        """Whether the file is close enough to the model; one different answer proves nothing, of however few it is."""
        different = 0 if self.agreement is None else round((1 - self.agreement) * self.samples)
        agrees = different <= max(1, (1 - MIN_AGREEMENT) * self.samples + 1e-6)
        return self.output_error <= self.max_output_error and agrees


@torch.no_grad()
def compare(file: nn.Module, model: nn.Module, data: Data, split: str) -> Comparison:
    """Compare the outputs of a file and of its model over a whole split, and at unusual batch sizes.

    Args:
        file: the opened file.
        model: in eval mode, on the CPU. A module in it with a true attribute `rounds_activations` says that the network
            rounds between its layers, and the file's outputs may differ more.
        data: the task feeds the batches.
        split: such as `test`.

    Raises:
        TechniqueError: the shapes of outputs differ.
    """
    squares = total = same = answered = samples = 0.0
    for batch in _batches(data, split):
        theirs, ours = data.task.forward(file, batch), data.task.forward(model, batch)
        left, right = data.task.logits(theirs).double(), data.task.logits(ours).double()
        if left.shape != right.shape:
            raise TechniqueError(f"outputs must have the model's shape {tuple(right.shape)}, found {tuple(left.shape)}")
        squares, total = squares + float((left - right).square().sum()), total + float(right.square().sum())
        agreeing = _agreeing(data.task.answers(theirs), data.task.answers(ours), len(batch))
        if agreeing is not None:
            same, answered = same + float(agreeing.sum()), answered + len(batch)
        samples += len(batch)
    error = (squares / total) ** 0.5 if total else squares**0.5
    rounds = any(getattr(module, "rounds_activations", False) for module in model.modules())
    allowed = MAX_ROUNDED_OUTPUT_ERROR if rounds else MAX_OUTPUT_ERROR
    return Comparison(error, same / answered if answered else None, int(samples), allowed)


def _batches(data: Data, split: str) -> Iterable[Batch]:
    for size in (1, 7, data.batch_size + 1):
        yield data.example(size)
    yield from data.batches(split)


def _agreeing(theirs: Tensor | None, ours: Tensor | None, samples: int) -> Tensor | None:
    if theirs is None or ours is None:
        return None
    return (theirs == ours).reshape(samples, -1).all(dim=1)
