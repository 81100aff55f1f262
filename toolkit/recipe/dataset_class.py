"""A `Dataset` class as a data source, called once per split with the arguments of that split."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from toolkit.errors import did_you_mean
from toolkit.sources import resolve

if TYPE_CHECKING:
    from toolkit.recipe.data_table import DataTable

IMAGE_DATASETS = "torchvision.datasets."
DATASET_CLASS_KEYS = ("train_args", "test_args", "transform", "train_transform")
# The parameters with which classes of torchvision choose a split, with their values for train and test.
SPLIT_PARAMETERS: dict[str, tuple[Any, Any]] = {"train": (True, False), "split": ("train", "test")}


def is_dataset(target: Any) -> bool:
    """Return whether `target` is a `Dataset` class, which holds one split."""
    return isinstance(target, type) and issubclass(target, Dataset)


def check_arguments_known(target: Any, args: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for arguments that a class does not accept. Missing ones are found per split."""
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    unknown = [f"unknown argument '{name}'{did_you_mean(name, parameters)}" for name in args if name not in parameters]
    if unknown:
        raise ValueError("; ".join(unknown))


def with_absolute_root(args: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Return the arguments with an absolute `root`; a relative one is next to the recipe, like all its files."""
    root = args.get("root")
    return {**args, "root": os.path.realpath(directory / root)} if isinstance(root, str) else args


def arguments_by_split(target: Any, table: DataTable) -> dict[str, dict[str, Any]]:
    """Return the arguments of the train and the test split; raise a `ValueError` that names missing ones."""
    by_split = _split_arguments(target, table)
    transforms = {"train": table.train_transform or table.transform, "test": table.transform}
    if any(transforms.values()) and "transform" not in inspect.signature(target).parameters:
        raise ValueError(f"'{table.source}' has no argument `transform`")
    calls = {}
    for name, split in by_split.items():
        calls[name] = {**table.args, **split, **_transform(target, transforms[name])}
        try:
            inspect.signature(target).bind(**calls[name])
        except TypeError as error:
            raise ValueError(f"{error} ('{table.source}', {name} split)") from error
    return calls


def _split_arguments(target: Any, table: DataTable) -> dict[str, dict[str, Any]]:
    explicit = {"train": table.train_args, "test": table.test_args}
    if any(args is not None for args in explicit.values()):
        explicit["train"] = explicit["train"] or {}
        return {name: args for name, args in explicit.items() if args is not None}
    parameters = inspect.signature(target).parameters
    for parameter, values in SPLIT_PARAMETERS.items():
        if parameter in parameters and parameter not in table.args:
            return {name: {parameter: value} for name, value in zip(explicit, values, strict=True)}
    raise ValueError(
        f"'{table.source}' is one Dataset class for several splits; set train_args = {{ … }} and test_args = {{ … }}"
    )


def _transform(target: Any, source: str | None) -> dict[str, Any]:
    """Return the argument that converts images to tensors: an instance if the source is a class, else the source."""
    if source is not None:
        transform: Any = resolve(source, "data")
        return {"transform": transform() if isinstance(transform, type) else transform}
    if target.__module__.startswith(IMAGE_DATASETS) and "transform" in inspect.signature(target).parameters:
        from torchvision.transforms import ToTensor

        return {"transform": ToTensor()}
    return {}
