"""A batch, and how it is fed to a model, what the loss is and which answers are right."""

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
    """Some samples of one split.

    `inputs` is a tensor, or a tuple or dictionary of tensors, with the samples along dimension 0; `targets` is what
    the task's loss expects; `index` (N,) int64 is each sample's position in its split, so that a value computed once
    per sample can be kept; `augmented` says that `inputs` were changed at random, so that it cannot.
    """

    inputs: Any
    targets: Any
    index: Tensor
    augmented: bool = False

    def __len__(self) -> int:
        return len(self.index)


class Task:
    """How a batch is fed to a model, what its logits and its loss are, and which answers are right.

    Subclass it, or one of those that are shipped, for a network with inputs, outputs or a loss of its own; every
    technique and metric goes through it.
    """

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """The model's outputs for a batch: a tuple is passed as arguments, a dictionary as keywords."""
        if isinstance(batch.inputs, Mapping):
            return model(**batch.inputs)
        if isinstance(batch.inputs, (tuple, list)):
            return model(*batch.inputs)
        return model(batch.inputs)

    def logits(self, outputs: Any) -> Tensor:
        """The tensor that answers are read from: `outputs` itself, its `logits`, or its first element."""
        return logits_of(outputs)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The scalar that training minimizes, in float32."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(outputs, batch)")

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """How far a model's logits are from another model's on the same batch: a scalar, 0 where they are equal.

        What a model minimizes that learns from another one; of the size of `loss`. Here the mean squared difference.

        Args:
            logits: as `logits` reads them from outputs, float32, with gradients.
            reference: the other model's, of the same shape.
            batch: the samples.
            temperature: softens distributions where the logits are such; the result is multiplied by its square.
        """
        return F.mse_loss(logits, reference)

    def correct(self, outputs: Any, batch: Batch) -> Tensor | None:
        """Which samples are answered rightly: (N,) bool; None for a task in which nothing is right or wrong."""
        return None

    def answers(self, outputs: Any) -> Tensor | None:
        """What is answered, (N, …), for comparing two models sample by sample; None where answers are not discrete."""
        return None

    def counted(self, batch: Batch) -> Tensor | None:
        """Which of the answers count, bool of their shape, where some are mere padding; None for all."""
        return None

    def scores(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Pooled]:
        """Further metrics by name: one value a sample, (N,), or what is `Pooled` over the split.

        `better` says which direction is the better one.
        """
        return {}

    better: ClassVar[Mapping[str, Direction]] = {}
    """For each name in `scores`, whether `higher` or `lower` is better."""

    def mismatch(self, shape: tuple[int, ...], targets: Any) -> str | None:
        """Why logits of this shape a sample cannot answer these targets (N, …), as a sentence; None if they can."""
        return None
