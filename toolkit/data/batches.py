"""Batches of a split: tensors in memory are indexed, anything else is read through a `DataLoader`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import Dataset, Subset, TensorDataset

from toolkit.data.reader import Collated, load

if TYPE_CHECKING:
    from toolkit.tasks import Batch

Split: TypeAlias = "tuple[Any, Any] | Dataset[Any]"


def split_length(split: Split) -> int:
    """Return the number of samples in a split."""
    if isinstance(split, tuple):
        return len(tree_leaves(split)[0])
    return len(split)  # type: ignore[arg-type]  # the base class of map-style datasets declares no length


def in_memory(split: Split) -> Split:
    """Return the pair of tensors inside a `TensorDataset` of inputs and targets; return any other split unchanged."""
    if type(split) is TensorDataset and len(split.tensors) == 2:  # a subclass may transform its tensors
        return split.tensors[0], split.tensors[1]
    return split


def take(split: Split, index: Tensor) -> Split:
    """Return the samples at `index` (int64 positions), in that order."""
    split = in_memory(split)
    if isinstance(split, tuple):
        inputs, targets = tree_map_only(Tensor, lambda tensor: tensor[index], split)
        return inputs, targets
    if isinstance(split, Collated):
        return Collated(Subset(split.samples, index.tolist()), split.collate)
    return Subset(split, index.tolist())


class Batches:
    """One pass over a split; `len()` is the number of batches.

    Args:
        split: split to read.
        batch_size: samples per batch; the last batch may be smaller.
        device: where inputs and targets are placed.
        order: int64 positions of the samples to read; None for all in stored order.
        convert: function that converts a stored batch to inputs, on the device.
        augment: function that changes a batch of inputs at random.
        training: drop a last batch of a single sample, because batch norm cannot train on it.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        device: torch.device,
        order: Tensor | None = None,
        convert: Callable[[Any], Any] | None = None,
        augment: Callable[[Any], Any] | None = None,
        training: bool = False,
    ) -> None:
        self.split = in_memory(split)
        self.batch_size = batch_size
        self.device = device
        self.order = torch.arange(split_length(split)) if order is None else order
        self.convert, self.augment = convert, augment
        self.stored_order = order is None
        if training and len(self.order) > 1 and len(self.order) % batch_size == 1:
            self.order = self.order[:-1]
        # A Dataset may transform its samples at random; there is no way to tell.
        self.augmented = training and (augment is not None or not isinstance(self.split, tuple))

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def after(self, steps: int) -> Batches:
        """Return the same pass without its first `steps` batches."""
        remaining = copy.copy(self)
        remaining.order = self.order[steps * self.batch_size :]
        remaining.stored_order = self.stored_order and steps == 0
        return remaining

    def __iter__(self) -> Iterator[Batch]:
        from toolkit.tasks import Batch

        for inputs, targets, index in self._indexed() if isinstance(self.split, tuple) else self._loaded():
            inputs, targets, index = self._on_device(inputs), self._on_device(targets), self._on_device(index)
            for change in filter(None, (self.convert, self.augment)):
                inputs = change(inputs)
            yield Batch(inputs, targets, index, self.augmented)

    def _indexed(self) -> Iterator[tuple[Any, Any, Tensor]]:
        for start in range(0, len(self.order), self.batch_size):
            stop = start + self.batch_size
            index = self.order[start:stop]
            # A slice is a view; indexing by a tensor copies.
            key = slice(start, stop) if self.stored_order else index
            inputs, targets = self.split  # type: ignore[misc]  # a pair: `__iter__` calls `_loaded` for any other split
            yield _at(inputs, key), _at(targets, key), index

    def _loaded(self) -> Iterator[tuple[Any, Any, Tensor]]:
        return load(self.split, self.order.tolist(), self.batch_size)

    def _on_device(self, tree: Any) -> Any:
        if self.device.type == "cpu":
            return tree
        return tree_map_only(Tensor, lambda tensor: tensor.to(self.device, non_blocking=True), tree)


def _at(tree: Any, key: Any) -> Any:
    if isinstance(tree, Tensor):  # the common case: traversing a tree is slower than indexing
        return tree[key]
    return tree_map_only(Tensor, lambda tensor: tensor[key], tree)
