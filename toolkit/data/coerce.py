"""Conversion of whatever a data source returns to `Data`: tensors, arrays, Datasets or DataLoaders, paired or named."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from toolkit.data.batches import Split, in_memory, take
from toolkit.data.reader import Collated
from toolkit.data.splits import Data
from toolkit.errors import InputError

log = logging.getLogger("toolkit")

SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
FORMS = "toolkit.Data, (train, test), (train, validation, test) or a dictionary of these names"


def as_data(returned: Any, source: str, batch_size: int) -> Data:
    """Return the splits of a data source, each as a pair of tensors or a map-style `Dataset`.

    Args:
        returned: `Data`, a pair, a triple or a dictionary. A split is a pair `(inputs, targets)` of tensors or arrays,
            a `Dataset`, or a `DataLoader`; only the dataset and the `collate_fn` of a loader are used.
        source: name of the data source, for errors.
        batch_size: batch size of the recipe; a `DataLoader` with a different one is reported in the log.

    Raises:
        InputError: `returned` is none of these.
    """
    if isinstance(returned, Data):
        names = [name for name in ("train", "validation", "test") if getattr(returned, name) is not None]
        changed: dict[str, Any] = {name: _split(getattr(returned, name), name, batch_size) for name in names}
        return replace(returned, **changed)
    splits: Any = {name: _split(split, name, batch_size) for name, split in _by_name(returned, source).items()}
    return Data(**splits)


def loader_batch_size(returned: Any) -> int | None:
    """Return the batch size of the train split of a data source if it is a `DataLoader`, else None.

    Raises:
        InputError: `returned` has no splits.
    """
    train = returned.train if isinstance(returned, Data) else _by_name(returned, "").get("train")
    return train.batch_size if isinstance(train, DataLoader) else None


def _by_name(returned: Any, source: str) -> dict[str, Any]:
    if isinstance(returned, (Dataset, DataLoader)):
        kind = type(returned).__name__
        raise InputError(f"data source '{source}' must return {FORMS}, found a single {kind}")
    if isinstance(returned, Mapping):
        unknown = [name for name in returned if name not in SPLIT_NAMES]
        if unknown or "train" not in returned:
            raise InputError(
                f"data source '{source}' must return {FORMS}, found a dictionary with the keys {list(returned)}"
            )
        return {SPLIT_NAMES[name]: split for name, split in returned.items() if split is not None}
    if not isinstance(returned, (tuple, list)):
        raise InputError(f"data source '{source}' must return {FORMS}, found {type(returned).__name__}")
    if len(returned) not in (2, 3) or any(isinstance(split, (Tensor, np.ndarray)) for split in returned):
        types = ", ".join(type(split).__name__ for split in returned)
        raise InputError(
            f"data source '{source}' must return {FORMS}, each split as (inputs, targets), found ({types})"
        )
    names = ("train", "test") if len(returned) == 2 else ("train", "validation", "test")
    return {name: split for name, split in zip(names, returned, strict=True) if split is not None}


def _split(split: Any, name: str, batch_size: int) -> Split:
    if isinstance(split, DataLoader):
        return _unwrap_loader(split, name, batch_size)
    if isinstance(split, IterableDataset):
        kind = type(split).__name__
        raise InputError(f"the {name} split must be a map-style Dataset or tensors, found {kind} without a length")
    if isinstance(split, list) and len(split) == 2:
        split = tuple(split)
    if isinstance(split, tuple):
        if len(split) != 2:
            raise InputError(f"the {name} split must be a pair (inputs, targets), found {len(split)} elements")
        return tuple(tree_map(_tensor, split))
    if type(split) is Subset and isinstance(in_memory(split.dataset), tuple):  # from random_split
        return take(split.dataset, torch.as_tensor(split.indices))
    if not hasattr(split, "__getitem__") or isinstance(split, (str, Tensor, np.ndarray, Mapping)):
        raise InputError(f"the {name} split must be a map-style Dataset or tensors, found {type(split).__name__}")
    return split


def _unwrap_loader(loader: DataLoader[Any], name: str, batch_size: int) -> Split:
    """Return a loader's dataset with its `collate_fn`; the recipe determines everything else."""
    samples = _split(loader.dataset, name, batch_size)
    if loader.batch_sampler is None:  # its dataset returns whole batches
        raise InputError(f"the {name} split must be a DataLoader with a batch_size, found None")
    _warn_about_ignored(loader, name, batch_size)
    return samples if loader.collate_fn is default_collate else Collated(loader.dataset, loader.collate_fn)


def _warn_about_ignored(loader: DataLoader[Any], name: str, batch_size: int) -> None:
    ignored = []
    if loader.batch_size not in (batch_size, None):
        ignored.append(f"batch_size {loader.batch_size} ([data] batch_size is {batch_size})")
    for sampler, expected in (
        (loader.sampler, (RandomSampler, SequentialSampler)),
        (loader.batch_sampler, BatchSampler),
    ):
        if not isinstance(sampler, expected):
            ignored.append(f"{type(sampler).__name__} (training shuffles all samples)")
    if loader.num_workers:
        ignored.append("num_workers")
    if ignored:
        log.warning("ignoring these settings of the %s DataLoader: %s", name, ", ".join(ignored))


def _tensor(leaf: Any) -> Any:
    """Return an array as a tensor, with NumPy's default float64 as float32; return anything else unchanged."""
    if isinstance(leaf, np.ndarray):
        tensor = torch.from_numpy(leaf)
        return tensor.float() if tensor.dtype == torch.float64 else tensor
    return leaf
