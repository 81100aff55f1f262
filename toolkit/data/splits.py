"""The splits of a data source, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """The splits that a data source returns, and the task.

    A split is either a pair `(inputs, targets)` of tensors (N, …), indexed in memory, or a map-style `Dataset` of such
    pairs, read through a `DataLoader`.

    Args:
        train: samples to train on.
        validation: samples to make decisions on; cut from train by default, see `[data] validation`.
        test: samples to report on.
        task: inputs, loss and metrics.
        augment: function that changes a batch of inputs at random, in training only.
        metrics: functions `(outputs, batch) -> (N,)` (or `Pooled`) by name, measured in addition to the task's; lower
            is better for a function whose attribute `better` is "lower".
        batch_size: samples per batch; set from the recipe.
        device: where batches are placed; set from the recipe.
        classes: name of each class, in the order of its number; the report shows them instead of numbers.
        convert: function that converts a stored batch to inputs on the device, e.g. image bytes to floats.
        preparation: how the inputs came about, in words, for programs that run an exported model.
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
    preparation: str = "prepared as in training"
    classes: Sequence[str] = ()

    def split(self, name: str) -> Split:
        """Return the split `train`, `validation` or `test`; raise a `ValueError` if the data has none of that name."""
        split: Split | None = getattr(self, name)
        if split is None:
            raise ValueError(f"the data has no {name} split")
        return split

    @property
    def quality(self) -> dict[str, Direction]:
        """The name of every quality metric, the primary one first, and its better direction."""
        accuracy: dict[str, Direction] = {"accuracy": "higher"} if self.has_right_answers else {}
        custom: dict[str, Direction] = {
            name: getattr(metric, "better", "higher") for name, metric in self.metrics.items()
        }
        return {**accuracy, **self.task.better, **custom, "loss": "lower"}

    @property
    def has_right_answers(self) -> bool:
        """Whether the task defines which answers are right."""
        return type(self.task).correct is not Task.correct

    def samples(self, name: str) -> int:
        """Return the number of samples in a split."""
        return split_length(self.split(name))

    def batches(self, name: str, *, order: Tensor | None = None, batch_size: int | None = None) -> Batches:
        """Return the batches of a split, on the device and not augmented.

        Args:
            name: `train`, `validation` or `test`.
            order: int64 positions of the samples to read; all in stored order by default.
            batch_size: samples per batch; `self.batch_size` by default.
        """
        return Batches(self.split(name), batch_size or self.batch_size, self.device, order, self.convert)

    def training_batches(self, order: Tensor, batch_size: int) -> Batches:
        """Return the batches of the train split in `order`, augmented if the data source defines an augmentation."""
        return Batches(self.train, batch_size, self.device, order, self.convert, self.augment, training=True)

    def example(self, batch_size: int) -> Batch:
        """Return the first `batch_size` samples of train, repeated if there are fewer: a batch to try models on."""
        order = torch.arange(batch_size) % self.samples("train")
        return next(iter(self.batches("train", order=order, batch_size=batch_size)))

    @property
    def augmented(self) -> bool:
        """Whether a training sample may differ from epoch to epoch, so that nothing computed from it can be cached."""
        return self.augment is not None or not isinstance(in_memory(self.train), tuple)

    @property
    def selection_split(self) -> str:
        """The split to make decisions on: `validation`, or `train` if there is none; never `test`."""
        return "train" if self.validation is None else "validation"

    def without_augmentation(self) -> Data:
        """Return the same data without `augment`; a `Dataset` may still change its samples."""
        return replace(self, augment=None)

    def on_cpu(self) -> Data:
        """Return the same data with batches on the CPU."""
        return replace(self, device=torch.device("cpu"))

    def without_test(self) -> Data:
        """Return the same data without its test split, as `prepare`, `optimize` and `finetune` receive it."""
        return replace(self, test=None)
