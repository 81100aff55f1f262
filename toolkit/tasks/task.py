"""The base class of all tasks, and the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.tasks.outputs import logits_of
from toolkit.tasks.pooled import Pooled

Direction: TypeAlias = Literal["higher", "lower"]


@dataclass(frozen=True)
class Batch:
    """A batch of samples from one split.

    Args:
        inputs: tensor, or a tuple or dictionary of tensors, with the samples along dimension 0.
        targets: targets in the form that the loss of the task expects.
        index: (N,) int64, position of each sample in its split, a key for caching per-sample values.
        augmented: whether `inputs` were changed at random, so that values computed from them must not be cached.
    """

    inputs: Any
    targets: Any
    index: Tensor
    augmented: bool = False

    def __len__(self) -> int:
        return len(self.index)


class Task:
    """The interface through which every technique and metric runs a model: inputs, logits, loss, correct answers.

    Subclass it, or one of the built-in tasks, for a network with custom inputs, outputs or loss.
    """

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Return the model's outputs for a batch; pass a tuple of inputs as `*args`, a dictionary as `**kwargs`."""
        if isinstance(batch.inputs, Mapping):
            return model(**batch.inputs)
        if isinstance(batch.inputs, (tuple, list)):
            return model(*batch.inputs)
        return model(batch.inputs)

    def logits(self, outputs: Any) -> Tensor:
        """Return the logits: `outputs` itself if it is a tensor, else its `logits`, else its first element."""
        return logits_of(outputs)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the loss that training minimizes, a float32 scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(outputs, batch)")

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Return the distance between the logits of two models on the same batch: a scalar, 0 if they are equal.

        A student minimizes it to learn from a teacher, so it should be on the scale of `loss`. By default, the distance
        is the mean squared difference.

        Args:
            logits: logits of the student, float32, with gradients.
            reference: logits of the teacher, of the same shape.
            batch: samples that both models were run on.
            temperature: softens probability distributions; multiply the result by its square. Unused by default.
        """
        return F.mse_loss(logits, reference)

    def correct(self, outputs: Any, batch: Batch) -> Tensor | None:
        """Return which samples are answered correctly: (N,) bool; None if the task has no correct answers."""
        return None

    def answers(self, outputs: Any) -> Tensor | None:
        """Return the answers, (N, …), to compare two models by; None if answers are not discrete."""
        return None

    def counted(self, batch: Batch) -> Tensor | None:
        """Return which answers count, bool in the shape of the answers, if some are padding; None for all."""
        return None

    def scores(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Pooled]:
        """Return further metrics by name: one value per sample, (N,), or `Pooled` over the split.

        List every name in `better` with its better direction.
        """
        return {}

    better: ClassVar[Mapping[str, Direction]] = {}
    """The better direction, `higher` or `lower`, of each metric in `scores`."""

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """Return an error message if logits of this shape per sample do not match the targets (N, …), else None."""
        return None
