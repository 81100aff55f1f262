"""The splits of a data source, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from toolkit.data.batches import Batches, Split, in_memory, split_length
from toolkit.tasks.classification import Classification
from toolkit.tasks.pooled import Pooled
from toolkit.tasks.task import Batch, Direction, Task

Metric: TypeAlias = "Callable[[Any, Batch], Tensor | Pooled]"


@dataclass(frozen=True)
class Data:
    """What a data source returns: three splits, and the task that they set.

    A split is a pair `(inputs, targets)` of tensors (N, …), kept in memory and indexed there, or a map-style
    `Dataset` of such pairs, read through a `DataLoader`. `convert` makes a batch of what is stored into inputs, on
    their device: bytes of pictures into floats, say. `augment` changes a batch of inputs at random, in training only.
    `metrics` are functions `(outputs, batch) -> (N,)` (or `Pooled`) by name, measured besides the task's own; one whose
    attribute `better` is "lower" is better when lower. `batch_size` and `device` are filled in from the recipe.
    """

    train: Split
    validation: Split | None = None
    test: Split | None = None
    task: Task = field(default_factory=Classification)
    augment: Callable[[Any], Any] | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    batch_size: int = 128
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    convert: Callable[[Any], Any] | None = None

    def split(self, name: str) -> Split:
        """The split `train`, `validation` or `test`; a `ValueError` if there is none."""
        split: Split | None = getattr(self, name)
        if split is None:
            raise ValueError(f"the data has no {name} split")
        return split

    @property
    def quality(self) -> dict[str, Direction]:
        """Every metric of quality that is measured, the primary one first, and the direction that is better."""
        right: dict[str, Direction] = {"accuracy": "higher"} if self.has_right_answers else {}
        own: dict[str, Direction] = {name: getattr(metric, "better", "higher") for name, metric in self.metrics.items()}
        return {**right, **self.task.better, **own, "loss": "lower"}

    @property
    def has_right_answers(self) -> bool:
        """Whether the task says what is right."""
        return type(self.task).correct is not Task.correct

    def samples(self, name: str) -> int:
        """How many samples a split has."""
        return split_length(self.split(name))

    def batches(self, name: str, *, order: Tensor | None = None, batch_size: int | None = None) -> Batches:
        """A split's batches on the device, not augmented: in `order` (int64 positions), else as they are stored."""
        return Batches(self.split(name), batch_size or self.batch_size, self.device, order, self.convert)

    def training_batches(self, order: Tensor, batch_size: int) -> Batches:
        """The train split's batches in `order`, augmented where the data source says how."""
        return Batches(self.train, batch_size, self.device, order, self.convert, self.augment, training=True)

    def example(self, batch_size: int) -> Batch:
        """The first `batch_size` samples of train, repeated where there are fewer: for probing shapes and timing."""
        order = torch.arange(batch_size) % self.samples("train")
        return next(iter(self.batches("train", order=order, batch_size=batch_size)))

    @property
    def augmented(self) -> bool:
        """Whether a training sample may look different in every epoch, so that nothing can be kept of it."""
        return self.augment is not None or not isinstance(in_memory(self.train), tuple)

    @property
    def selection_split(self) -> str:
        """The split that decisions are made on: `validation`, or `train` without one; never `test`."""
        return "train" if self.validation is None else "validation"

    def without_augmentation(self) -> Data:
        """The same data, whose training samples look the same in every epoch, as far as the data source decides it."""
        return replace(self, augment=None)

    def without_test(self) -> Data:
        """The same data as `prepare`, `optimize` and `finetune` see it."""
        return replace(self, test=None)
