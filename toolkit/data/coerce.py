"""What a data source returned, as `Data`: splits as tensors, arrays, Datasets, DataLoaders; in a pair or by name."""

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

NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
FORMS = "toolkit.Data, (train, test), (train, validation, test) or a dictionary of these names"


def as_data(returned: Any, source: str, batch_size: int) -> Data:
    """The splits that a data source returned, each as a pair of tensors or a map-style `Dataset`.

    Args:
        returned: `Data`, a pair, a triple or a dictionary; a split is a pair `(inputs, targets)` of tensors or arrays,
            a `Dataset`, or a `DataLoader`, of which the data set and the `collate_fn` are taken.
        source: what errors name.
        batch_size: what the recipe says; a `DataLoader` that says something else is noted in the log.

    Raises:
        InputError: it is nothing of these.
    """
    if isinstance(returned, Data):
        names = [name for name in ("train", "validation", "test") if getattr(returned, name) is not None]
        changed: dict[str, Any] = {name: _split(getattr(returned, name), name, batch_size) for name in names}
        return replace(returned, **changed)
    splits: Any = {name: _split(split, name, batch_size) for name, split in _by_name(returned, source).items()}
    return Data(**splits)


def _by_name(returned: Any, source: str) -> dict[str, Any]:
    if isinstance(returned, (Dataset, DataLoader)):
        kind = type(returned).__name__
        raise InputError(f"data source '{source}' returned one {kind}: return {FORMS}")
    if isinstance(returned, Mapping):
        unknown = [name for name in returned if name not in NAMES]
        if unknown or "train" not in returned:
            raise InputError(f"data source '{source}' returned a dictionary of {list(returned)}: return {FORMS}")
        return {NAMES[name]: split for name, split in returned.items() if split is not None}
    if not isinstance(returned, (tuple, list)):
        raise InputError(f"data source '{source}' must return {FORMS}, not {type(returned).__name__}")
    if len(returned) not in (2, 3) or any(isinstance(split, (Tensor, np.ndarray)) for split in returned):
        kinds = ", ".join(type(split).__name__ for split in returned)
        raise InputError(f"data source '{source}' returned ({kinds}): return {FORMS}, each split as (inputs, targets)")
    names = ("train", "test") if len(returned) == 2 else ("train", "validation", "test")
    return {name: split for name, split in zip(names, returned, strict=True) if split is not None}


def _split(split: Any, name: str, batch_size: int) -> Split:
    if isinstance(split, DataLoader):
        return _of_loader(split, name, batch_size)
    if isinstance(split, IterableDataset):
        kind = type(split).__name__
        raise InputError(f"its {name} split is a {kind} without a length: give a map-style Dataset or tensors")
    if isinstance(split, list) and len(split) == 2:
        split = tuple(split)
    if isinstance(split, tuple):
        if len(split) != 2:
            raise InputError(f"its {name} split has {len(split)} parts and must be a pair (inputs, targets)")
        return tuple(tree_map(_tensor, split))
    if type(split) is Subset and isinstance(in_memory(split.dataset), tuple):  # of random_split
        return take(split.dataset, torch.as_tensor(split.indices))
    if not hasattr(split, "__getitem__") or isinstance(split, (str, Tensor, np.ndarray, Mapping)):
        raise InputError(f"its {name} split is a {type(split).__name__}: give a map-style Dataset or tensors")
    return split


def _of_loader(loader: DataLoader[Any], name: str, batch_size: int) -> Split:
    """A loader's data set, with its `collate_fn`; what else it decides is the recipe's to say."""
    samples = _split(loader.dataset, name, batch_size)
    if loader.batch_sampler is None:  # its samples are batches already
        raise InputError(f"its {name} split is a DataLoader with batch_size None: give one that makes batches")
    _note_lost(loader, name, batch_size)
    return samples if loader.collate_fn is default_collate else Collated(loader.dataset, loader.collate_fn)


def _note_lost(loader: DataLoader[Any], name: str, batch_size: int) -> None:
    lost = []
    if loader.batch_size not in (batch_size, None):
        lost.append(f"its batch_size {loader.batch_size} ([data] batch_size is {batch_size})")
    for sampler, usual in ((loader.sampler, (RandomSampler, SequentialSampler)), (loader.batch_sampler, BatchSampler)):
        if not isinstance(sampler, usual):
            lost.append(f"its {type(sampler).__name__} (training shuffles all samples)")
    if loader.num_workers:
        lost.append("its workers")
    if lost:
        log.warning("of the %s DataLoader the data set is used, but not %s", name, ", nor ".join(lost))


def _tensor(leaf: Any) -> Any:
    """An array as a tensor; numbers of double precision, NumPy's default, in single precision."""
    if isinstance(leaf, np.ndarray):
        found = torch.from_numpy(leaf)
        return found.float() if found.dtype == torch.float64 else found
    return leaf
