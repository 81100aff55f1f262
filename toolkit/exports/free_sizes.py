"""Which sizes differ between batches: the number of samples, and lengths to which a collation pads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from toolkit.data.batches import in_memory
from toolkit.data.reader import Collated
from toolkit.data.splits import Data
from toolkit.tasks import Batch

SAMPLES = frozenset({0})  # the dimension of each tensor


def free_sizes(data: Data, batch: Batch) -> Any:
    """Return the inputs of a batch with, in place of each tensor, the dimensions whose size differs between batches.

    Dimension 0, the number of samples, always is one of them. Only data with a collation of its own has others: what is
    compared then are the batches that the file is judged on.
    """
    return _differing(batch.inputs, (other.inputs for other in _others(data)))


@torch.no_grad()
def free_output_sizes(model: nn.Module, data: Data, batch: Batch) -> Any:
    """Return the same of the model's outputs, from the first batch whose inputs are of another size."""
    outputs = data.task.forward(model, batch)
    other = next((other for other in _others(data) if _differing(batch.inputs, [other.inputs]) != _fixed(batch)), None)
    return _differing(outputs, [] if other is None else [data.task.forward(model, other)])


def _others(data: Data) -> Iterator[Batch]:
    split = "test" if data.test is not None else data.selection_split
    if isinstance(in_memory(data.split(split)), Collated):
        yield from data.batches(split)


def _fixed(batch: Batch) -> Any:
    return tree_map_only(Tensor, lambda _: SAMPLES, batch.inputs)


def _differing(first: Any, others: Iterable[Any]) -> Any:
    def widen(free: Any, other: Any) -> Any:
        return tree_map(_widened, free, first, other)

    return reduce(widen, others, tree_map_only(Tensor, lambda _: SAMPLES, first))


def _widened(free: Any, first: Any, other: Any) -> Any:
    if not isinstance(first, Tensor):  # an object that only the network's source knows
        return free
    sizes = zip(first.shape, other.shape, strict=True)
    return free | frozenset(dimension for dimension, (one, two) in enumerate(sizes) if one != two)
