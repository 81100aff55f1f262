"""Batches of a `Dataset`, read through a `DataLoader` and separated into inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, default_collate

from toolkit.errors import InputError, described

TARGET_KEYS = ("labels", "label", "targets", "target")  # in samples that are dictionaries


class Collated(Dataset[Any]):
    """A dataset with its own `collate_fn`."""

    def __init__(self, samples: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.samples, self.collate = samples, collate

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Any:
        return self.samples[position]


def load(split: Any, order: Sequence[int], batch_size: int) -> Iterator[tuple[Any, Any, Tensor]]:
    """Yield the inputs, targets and positions (N,) int64 of each batch, in `order`."""
    # A list of positions serves as the sampler and fixes the order without drawing random numbers. The loader draws a
    # seed for its workers even without workers; the generator keeps it from drawing from the global one.
    collate = split.collate if isinstance(split, Collated) else None
    loader: DataLoader[Any] = DataLoader(
        _WithIndex(split),
        batch_size=batch_size,
        sampler=order,
        generator=torch.Generator(),
        collate_fn=_Collate(collate),
    )
    for samples, index in loader:
        inputs, targets = split_sample(samples)
        yield tuple(inputs) if isinstance(inputs, list) else inputs, targets, index  # default_collate returns lists


def split_sample(sample: Any) -> tuple[Any, Any]:
    """Return the inputs and targets of a sample or batch: of a pair, or of a dictionary that contains the targets.

    Raises:
        InputError: the sample is neither.
    """
    if isinstance(sample, Mapping):
        name = next((name for name in TARGET_KEYS if name in sample), None)
        if name is not None:
            return {key: value for key, value in sample.items() if key != name}, sample[name]
        raise InputError(f"samples must have one of the keys {_quoted(TARGET_KEYS)}, found {_quoted(sample)}")
    if isinstance(sample, (tuple, list)):
        if len(sample) == 2:
            return sample[0], sample[1]
        raise InputError(
            f"samples must be pairs (inputs, target), found {len(sample)} elements; return several inputs as a tuple"
        )
    raise InputError(f"samples must be pairs (inputs, target), found {type(sample).__name__}")


class _WithIndex(Dataset[Any]):
    """A dataset that returns each sample with its position."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.samples[position], position


class _Collate:
    """A `collate_fn` for samples with their positions."""

    def __init__(self, collate: Callable[[list[Any]], Any] | None) -> None:
        self.collate = collate

    def __call__(self, samples: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        plain, index = [sample for sample, _ in samples], torch.tensor([position for _, position in samples])
        if self.collate is not None:
            return self.collate(plain), index
        return _stack([split_sample(sample) for sample in plain]), index


def _stack(pairs: list[tuple[Any, Any]]) -> Any:
    try:
        return default_collate(pairs)
    except TypeError as error:
        types = ", ".join(sorted({type(leaf).__name__ for leaf in tree_leaves(pairs)}))
        raise InputError(f"samples must contain tensors or numbers, found {types}; add a transform") from error
    except RuntimeError as error:
        raise InputError(
            f"samples must have equal shapes ({described(error)}); "
            "resize or pad them, or return a DataLoader with a collate_fn"
        ) from error


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)
