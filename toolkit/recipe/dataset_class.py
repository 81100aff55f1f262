"""A `Dataset` class as a data source: it is called once for each split, with that split's arguments."""

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

PICTURES = "torchvision.datasets."
ONLY = ("train_args", "test_args", "transform", "train_transform")  # keys that no other source has a use for
# How the classes of torchvision call what chooses a split, and its values.
CONVENTIONS: dict[str, tuple[Any, Any]] = {"train": (True, False), "split": ("train", "test")}


def is_dataset(target: Any) -> bool:
    """Whether calling it makes one split."""
    return isinstance(target, type) and issubclass(target, Dataset)


def known_arguments(target: Any, args: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for arguments that a class does not take; whether some are missing shows per split."""
    known = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    unknown = [f"there is no argument '{name}'{did_you_mean(name, known)}" for name in args if name not in known]
    if unknown:
        raise ValueError("; ".join(unknown))


def placed(args: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The same with a relative `root` taken as beside the recipe, like all files that it names."""
    root = args.get("root")
    return {**args, "root": os.path.realpath(directory / root)} if isinstance(root, str) else args


def arguments(target: Any, table: DataTable) -> dict[str, dict[str, Any]]:
    """The arguments of the train and the test split; a `ValueError` says what is missing."""
    own = _own_arguments(target, table)
    transforms = {"train": table.train_transform or table.transform, "test": table.transform}
    if any(transforms.values()) and "transform" not in inspect.signature(target).parameters:
        raise ValueError(f"'{table.source}' takes no transform")
    calls = {}
    for name, split in own.items():
        calls[name] = {**table.args, **split, **_transform(target, transforms[name])}
        try:
            inspect.signature(target).bind(**calls[name])
        except TypeError as error:
            raise ValueError(f"{error} (of '{table.source}', for the {name} split)") from error
    return calls


def _own_arguments(target: Any, table: DataTable) -> dict[str, dict[str, Any]]:
    given = {"train": table.train_args, "test": table.test_args}
    if any(args is not None for args in given.values()):
        given["train"] = given["train"] or {}
        return {name: args for name, args in given.items() if args is not None}
    known = inspect.signature(target).parameters
    for parameter, values in CONVENTIONS.items():
        if parameter in known and parameter not in table.args:
            return {name: {parameter: value} for name, value in zip(given, values, strict=True)}
    raise ValueError(
        f"'{table.source}' makes one Dataset: say what makes each split, train_args = {{ … }} and test_args = {{ … }}"
    )


def _transform(target: Any, source: str | None) -> dict[str, Any]:
    """What makes a sample's picture into a tensor: a class is made first, anything else is the transform itself."""
    if source is not None:
        found: Any = resolve(source, "data")
        return {"transform": found() if isinstance(found, type) else found}
    if target.__module__.startswith(PICTURES) and "transform" in inspect.signature(target).parameters:
        from torchvision.transforms import ToTensor

        return {"transform": ToTensor()}
    return {}
