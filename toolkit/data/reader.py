"""A `Dataset` read through a `DataLoader`: its samples as inputs and targets, put together as it wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, default_collate

from toolkit.errors import InputError, described

TARGETS = ("labels", "label", "targets", "target")  # what samples that are dictionaries call them


class Collated(Dataset[Any]):
    """A data set with a function of its own that puts a list of its samples together."""

    def __init__(self, samples: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.samples, self.collate = samples, collate

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Any:
        return self.samples[position]


def load(split: Any, order: Sequence[int], batch_size: int) -> Iterator[tuple[Any, Any, Tensor]]:
    """Inputs, targets and positions, (N,) int64, of one batch after another, in `order`."""
    # A list of positions is a sampler, which fixes the order without a second source of randomness; and the generator
    # is there to keep the loader from drawing a seed, for workers it has not, from the global one.
    collate = split.collate if isinstance(split, Collated) else None
    loader: DataLoader[Any] = DataLoader(
        _WithIndex(split),
        batch_size=batch_size,
        sampler=order,
        generator=torch.Generator(),
        collate_fn=_Collate(collate),
    )
    for samples, index in loader:
        inputs, targets = in_two(samples)
        yield tuple(inputs) if isinstance(inputs, list) else inputs, targets, index  # collating makes lists


def in_two(sample: Any) -> tuple[Any, Any]:
    """Inputs and targets of a sample or a batch: a pair, or a dictionary of inputs with the targets among them.

    Raises:
        InputError: it is neither.
    """
    if isinstance(sample, Mapping):
        name = next((name for name in TARGETS if name in sample), None)
        if name is not None:
            return {key: value for key, value in sample.items() if key != name}, sample[name]
        raise InputError(f"its samples are dictionaries of {_listed(sample)}: one of them must be {_listed(TARGETS)}")
    if isinstance(sample, (tuple, list)):
        if len(sample) == 2:
            return sample[0], sample[1]
        raise InputError(f"its samples have {len(sample)} parts: several inputs are a tuple, ((first, second), target)")
    raise InputError(f"its samples are of type {type(sample).__name__}: they must be pairs (inputs, target)")


class _WithIndex(Dataset[Any]):
    """A data set whose samples carry their position."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.samples[position], position


class _Collate:
    """Puts samples together, and their positions."""

    def __init__(self, collate: Callable[[list[Any]], Any] | None) -> None:
        self.collate = collate

    def __call__(self, samples: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        found, index = [sample for sample, _ in samples], torch.tensor([position for _, position in samples])
        if self.collate is not None:
            return self.collate(found), index
        return _stacked([in_two(sample) for sample in found]), index


def _stacked(pairs: list[tuple[Any, Any]]) -> Any:
    try:
        return default_collate(pairs)
    except TypeError as error:
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in tree_leaves(pairs)}))
        raise InputError(f"its samples hold {kinds}, and must hold tensors or numbers: give it a transform") from error
    except RuntimeError as error:
        raise InputError(
            f"its samples differ in shape: make them equal, or give a DataLoader with a collate_fn ({described(error)})"
        ) from error


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)
