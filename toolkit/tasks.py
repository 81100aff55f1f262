"""What a batch, a loss and a right answer are: the only way by which techniques and metrics reach a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from toolkit.batches import Batches, Split, in_memory, split_length

Direction: TypeAlias = Literal["higher", "lower"]
Metric: TypeAlias = "Callable[[Any, Batch], Tensor]"


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

    Subclass it for a network with inputs, outputs or a loss of its own; every technique and metric goes through it.
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
        if isinstance(outputs, Tensor):
            return outputs
        if isinstance(outputs, Mapping):
            return self.logits(outputs["logits"] if "logits" in outputs else next(iter(outputs.values())))
        if hasattr(outputs, "logits"):
            return self.logits(outputs.logits)
        return self.logits(outputs[0])

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The scalar that training minimizes, in float32."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(outputs, batch)")

    def correct(self, outputs: Any, batch: Batch) -> Tensor | None:
        """Which samples are answered rightly: (N,) bool; None for a task in which nothing is right or wrong."""
        return None

    def answers(self, outputs: Any) -> Tensor | None:
        """What is answered, (N, …), for comparing two models sample by sample; None where answers are not discrete."""
        return None

    def scores(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Further metrics by name, one value a sample: (N,); `better` says which direction is the better one."""
        return {}

    better: ClassVar[Mapping[str, Direction]] = {}
    """For each name in `scores`, whether `higher` or `lower` is better."""


class Classification(Task):
    """One class out of C: logits (N, C), targets (N,) int64, cross-entropy, the largest logit is the answer."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean cross-entropy over the batch."""
        return F.cross_entropy(self.logits(outputs), batch.targets)

    def correct(self, outputs: Any, batch: Batch) -> Tensor:
        """Whether the largest logit is the target's: (N,) bool."""
        return self.answers(outputs) == batch.targets

    def answers(self, outputs: Any) -> Tensor:
        """The class with the largest logit: (N,) int64."""
        return self.logits(outputs).argmax(dim=1)


@dataclass(frozen=True)
class Data:
    """What a data source returns: three splits, and the task that they set.

    A split is a pair `(inputs, targets)` of tensors (N, …), kept in memory and indexed there, or a map-style
    `Dataset` of such pairs, read through a `DataLoader`. `augment` changes a batch of inputs at random, on their
    device, in training only. `metrics` are functions `(outputs, batch) -> (N,)` by name, measured besides the task's
    own; one whose attribute `better` is "lower" is better when lower. `batch_size` and `device` are filled in from the
    recipe.
    """

    train: Split
    validation: Split | None = None
    test: Split | None = None
    task: Task = field(default_factory=Classification)
    augment: Callable[[Any], Any] | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    batch_size: int = 128
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def split(self, name: str) -> Split:
        """The split `train`, `validation` or `test`; a `ValueError` if there is none."""
        split: Split | None = getattr(self, name)
        if split is None:
            raise ValueError(f"the data has no {name} split")
        return split

    @property
    def quality(self) -> dict[str, Direction]:
        """Every metric of quality that is measured, the foremost first, and the direction that is better."""
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
        return Batches(self.split(name), batch_size or self.batch_size, self.device, order)

    def training_batches(self, order: Tensor, batch_size: int) -> Batches:
        """The train split's batches in `order`, augmented where the data source says how."""
        return Batches(self.train, batch_size, self.device, order, self.augment, training=True)

    def example(self, batch_size: int) -> Batch:
        """The first `batch_size` samples of train, repeated where there are fewer: for probing shapes and timing."""
        order = torch.arange(batch_size) % self.samples("train")
        return next(iter(self.batches("train", order=order, batch_size=batch_size)))

    @property
    def augmented(self) -> bool:
        """Whether a training sample may look different in every epoch, so that nothing can be kept of it."""
        return self.augment is not None or not isinstance(in_memory(self.train), tuple)

    @property
    def decisive(self) -> str:
        """The split that decisions look at: `validation`, or `train` without one; never `test`."""
        return "train" if self.validation is None else "validation"

    def without_test(self) -> Data:
        """The same data as `prepare`, `optimize` and `finetune` see it."""
        return replace(self, test=None)


def to_float32(outputs: Any) -> Any:
    """Outputs of autocast in float32, whatever their structure; gradients pass."""
    if isinstance(outputs, Tensor):  # which it nearly always is, and a tree costs more than a small layer
        return outputs.float() if outputs.is_floating_point() else outputs
    return tree_map_only(Tensor, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, outputs)


__all__ = ["Batch", "Classification", "Data", "Dataset", "Split", "Task", "to_float32"]
