"""Whether an exported file gives the same answers as the model that it was exported from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toolkit.data.batches import in_memory
from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.tasks import Batch

# Runtimes add in another order, and where a layer rounds to integers, the last bit decides between two of them.
MAX_OUTPUT_ERROR = 0.01
# Where every layer of a deep network rounds, these bits add up: a static int8 ResNet-18 of random weights differs by
# 0.017 between float32 and float64 in PyTorch alone, and a MiniLM of six layers, whose linear layers round each row, by
# 0.017 where its weights change by 1e-7 of themselves.
MAX_ROUNDED_OUTPUT_ERROR = 0.05
MIN_AGREEMENT = 0.99
MAX_KEPT_BYTES = 256 << 20  # of the model's outputs, which are computed again for each file beyond that


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


class Judge:
    """Compares files with one model over a whole split, and at unusual batch sizes.

    The model runs once for all files, where the samples are the same each time.

    Args:
        model: in eval mode, on the CPU. A module in it with a true attribute `rounds_activations` says that the network
            rounds between its layers, and the file's outputs may differ more.
        data: the task feeds the batches.
        split: such as `test`.
    """

    def __init__(self, model: nn.Module, data: Data, split: str) -> None:
        self._model, self._data, self._split = model, data, split
        self._sizes = (1, 7, data.batch_size + 1)
        is_steady = all(isinstance(in_memory(data.split(name)), tuple) for name in ("train", split))
        self._outputs: list[_Outputs] | None = [] if is_steady else None
        self._kept_bytes = 0

    @torch.no_grad()
    def compare(self, file: nn.Module, also: Callable[[Any, Batch], None] = lambda *_: None) -> Comparison:
        """Compare the outputs of an opened file with the model's.

        Args:
            file: the opened file.
            also: called with the file's outputs for each batch of the split.

        Raises:
            TechniqueError: the shapes of outputs differ.
        """
        task = self._data.task
        squares = total = same = answered = samples = 0.0
        for number, batch in enumerate(self._batches()):
            outputs, ours = task.forward(file, batch), self._of_model(number, batch)
            left, right = task.logits(outputs).double(), ours.logits.double()
            if left.shape != right.shape:
                shapes = f"{tuple(right.shape)}, found {tuple(left.shape)}"
                raise TechniqueError(f"outputs must have the model's shape {shapes}")
            squares, total = squares + float((left - right).square().sum()), total + float(right.square().sum())
            agreeing = _agreeing(task.answers(outputs), ours.answers, len(batch))
            if agreeing is not None:
                same, answered = same + float(agreeing.sum()), answered + len(batch)
            samples += len(batch)
            if number >= len(self._sizes):
                also(outputs, batch)
        error = (squares / total) ** 0.5 if total else squares**0.5
        return Comparison(error, same / answered if answered else None, int(samples), self._max_output_error)

    @property
    def _max_output_error(self) -> float:
        rounds = any(getattr(module, "rounds_activations", False) for module in self._model.modules())
        return MAX_ROUNDED_OUTPUT_ERROR if rounds else MAX_OUTPUT_ERROR

    def _batches(self) -> Iterator[Batch]:
        for size in self._sizes:
            yield self._data.example(size)
        yield from self._data.batches(self._split)

    def _of_model(self, number: int, batch: Batch) -> _Outputs:
        """Return the model's outputs for a batch, kept from an earlier comparison if there was one."""
        kept = self._outputs
        if kept is not None and number < len(kept):
            return kept[number]
        outputs = self._data.task.forward(self._model, batch)
        ours = _Outputs(self._data.task.logits(outputs), self._data.task.answers(outputs))
        if kept is not None:
            kept.append(ours)
            self._kept_bytes += ours.logits.nbytes
            if self._kept_bytes > MAX_KEPT_BYTES:
                self._outputs = None
        return ours


class _Outputs(NamedTuple):
    """What a file is compared with: the model's logits and answers for one batch."""

    logits: Tensor
    answers: Tensor | None


def compare(file: nn.Module, model: nn.Module, data: Data, split: str) -> Comparison:
    """Compare the outputs of a file and of its model as a `Judge` does."""
    return Judge(model, data, split).compare(file)


def _agreeing(theirs: Tensor | None, ours: Tensor | None, samples: int) -> Tensor | None:
    if theirs is None or ours is None:
        return None
    return (theirs == ours).reshape(samples, -1).all(dim=1)
