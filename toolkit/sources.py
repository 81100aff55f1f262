"""Sources: the names by which a recipe refers to Python objects ("lenet5", "package.module:name", "file.py:name")."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from toolkit.errors import InputError, described, did_you_mean
from toolkit.importing import absolute_source, object_named, remedy_if_here
from toolkit.params import Params, Table

Kind = Literal["model", "data", "task", "augmentation"]


class SourceTable(Table):
    """A table with a callable and its arguments; relative files are next to the recipe."""

    kind: ClassVar[Kind] = "model"

    source: str = Field(description="built-in name, 'package.module:callable' or 'file.py:callable'")
    args: dict[str, Any] = Field(default={}, description="keyword arguments of the callable")

    @field_validator("source")
    @classmethod
    def _absolute(cls, source: str, info: ValidationInfo) -> str:
        source = absolute_source(source, directory_of(info))
        resolve(source, cls.kind)
        return source

    @field_validator("args")
    @classmethod
    def _accepted(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return cls._checked(args, info)

    @classmethod
    def _checked(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "source" in info.data:
            check_arguments(resolve(info.data["source"], cls.kind), args)
        return args

    def call(self) -> Any:
        """Call the source with its arguments; raise an `InputError` with the source and the error if it fails."""
        return self._called(self.args)

    def _called(self, args: dict[str, Any]) -> Any:
        try:
            return resolve(self.source, self.kind)(**args)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"{self.kind} '{self.source}' raised {described(error)}") from error


class Source(SourceTable):
    """A model in a recipe or in params: a callable that returns an `nn.Module`, its arguments, and optional weights."""

    weights: str | None = Field(
        default=None, description="file with a state dict: .safetensors, or written by torch.save"
    )

    weights_key: str | None = Field(
        default=None, description="key of the state dict in a checkpoint that contains several, e.g. 'ema'"
    )

    @field_validator("weights")
    @classmethod
    def _existing(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights is None:
            return None
        path = directory_of(info) / weights
        if not os.path.isfile(path):  # Path.is_file raises if the name is too long
            raise ValueError(f"{path} does not exist{remedy_if_here(weights, directory_of(info))}")
        return str(path)

    @field_validator("weights_key")
    @classmethod
    def _of_weights(cls, key: str | None, info: ValidationInfo) -> str | None:
        if key is not None and info.data.get("weights", "") is None:
            raise ValueError("requires `weights`")
        return key

    def build(self) -> nn.Module:
        """Return a new instance with its weights loaded.

        Raises:
            InputError: the source fails or returns no module, or the weights do not match.
        """
        from toolkit.model_files.origins import remember
        from toolkit.model_files.weights import load_weights

        model = self.call()
        if not isinstance(model, nn.Module):
            raise InputError(f"model '{self.source}' must return a torch.nn.Module, found {type(model).__name__}")
        if ":" in self.source:
            remember(model, self.source, self.args)
        if self.weights is not None:
            load_weights(model, Path(self.weights), self.weights_key)
        return model


def resolve(source: str, kind: Kind) -> Callable[..., Any]:
    """Return the callable that `source` names; raise a `ValueError` if there is none."""
    target = object_named(source) if ":" in source else _built_in(source, kind)
    if not callable(target):
        raise ValueError(f"'{source}' must be callable, found {type(target).__name__}")
    return target


def directory_of(info: ValidationInfo) -> Path:
    """Return the folder of the recipe that is being validated."""
    return (info.context or {}).get("directory", Path())


def _built_in(name: str, kind: Kind) -> Any:
    table: dict[str, Any]
    if kind == "model":
        from toolkit.models import MODELS as table
    elif kind == "task":
        from toolkit.tasks import TASKS as table
    elif kind == "augmentation":
        from toolkit.data.augmentation import AUGMENTATIONS as table
    else:
        from toolkit.data.built_in import DATASETS as table
    if name not in table:
        hint = did_you_mean(name, table)
        forms = "" if hint.endswith("?") else ", 'package.module:name', 'file.py:name'"
        raise ValueError(f"unknown {kind} '{name}'{hint}{forms}")
    return table[name]


def check_arguments(target: Callable[..., Any], args: dict[str, Any], before: int = 0) -> None:
    """Raise a `ValueError` if `target` cannot be called with `before` positional and these keyword arguments."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some C callables have no signature
        return
    try:
        signature.bind(*[None] * before, **args)
    except TypeError as error:
        parameters = signature.parameters
        accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = [name for name in args if name not in parameters and not accepts_any]
        sentences = [f"unknown argument '{name}'{did_you_mean(name, parameters)}" for name in unknown]
        raise ValueError("; ".join(sentences) or str(error)) from error


def models_in(params: Params) -> Iterator[tuple[str, Source]]:
    """Yield every model in a technique's params, with its dotted place."""
    yield from _models_in(dict(params), "")


def _models_in(value: Any, place: str) -> Iterator[tuple[str, Source]]:
    if isinstance(value, Source):
        yield place, value
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value, start=1)
        for key, item in items:
            yield from _models_in(item, f"{place}.{key}" if place else str(key))
