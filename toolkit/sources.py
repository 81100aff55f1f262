"""From the name that a recipe gives to the object itself: "lenet5", "package.module:name", "file.py:name"."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from toolkit.errors import InputError, described, did_you_mean
from toolkit.params import Params, Table

Kind = Literal["model", "data", "task", "augmentation"]
FILE_MODULE = re.compile(r".*_py_[0-9a-f]{8}", re.DOTALL)  # how `import_file` names a module


class Sourced(Table):
    """A table that names something callable and its arguments; relative files lie beside the recipe."""

    kind: ClassVar[Kind] = "model"

    source: str = Field(description="a built-in name, 'package.module:callable' or 'file.py:callable'")
    args: dict[str, Any] = Field(default={}, description="keyword arguments of the callable")

    @field_validator("source")
    @classmethod
    def _absolute(cls, source: str, info: ValidationInfo) -> str:
        source = beside(source, directory_of(info))
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
        """Call the source with its arguments; an `InputError` names the source and what it raised."""
        return self._called(self.args)

    def _called(self, args: dict[str, Any]) -> Any:
        try:
            return resolve(self.source, self.kind)(**args)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"{self.kind} '{self.source}' raised {described(error)}") from error


class Source(Sourced):
    """A model: a callable that returns an `nn.Module`, its arguments, and optionally weights to load into it."""

    weights: str | None = Field(default=None, description="a .safetensors file or a state dict saved by torch.save")

    @field_validator("weights")
    @classmethod
    def _found(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights is None:
            return None
        path = directory_of(info) / weights
        if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
            raise ValueError(f"there is no file {path}")
        return str(path)

    def build(self) -> nn.Module:
        """A new instance with its weights loaded; an `InputError` says what went wrong."""
        from toolkit.model_files.weights import load_weights

        model = self.call()
        if not isinstance(model, nn.Module):
            raise InputError(f"model '{self.source}' must return a torch.nn.Module, not {type(model).__name__}")
        if self.weights is not None:
            load_weights(model, Path(self.weights))
        return model


def resolve(source: str, kind: Kind) -> Callable[..., Any]:
    """The callable that `source` names; a `ValueError` says why there is none."""
    target = _named(source) if ":" in source else _built_in(source, kind)
    if not callable(target):
        raise ValueError(f"'{source}' is a {type(target).__name__}, which cannot be called")
    return target


def directory_of(info: ValidationInfo) -> Path:
    """The folder of the recipe that is being validated."""
    return (info.context or {}).get("directory", Path())


def beside(source: str, directory: Path) -> str:
    """A source whose relative file lies in `directory`, with the file's absolute path."""
    place, _, name = source.rpartition(":")
    if not place.endswith(".py") or "\0" in place:
        return source
    return f"{os.path.realpath(directory / place)}:{name}"  # Path.resolve raises for links that lead in a circle


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
        raise ValueError(f"unknown {kind} '{name}'{hint} (or write 'package.module:name' or 'file.py:name')")
    return table[name]


def _named(source: str) -> Any:
    place, _, name = source.rpartition(":")
    try:
        module = import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, FileNotFoundError) else described(error)
        raise ValueError(f"'{place}' cannot be imported: {reason}") from error
    target: Any = module
    for part in name.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            defined = [known for known in getattr(target, "__dict__", ()) if not known.startswith("_")]
            names = getattr(target, "__all__", None) or defined
            hint = did_you_mean(part, names) if len(names) < 30 else ""
            raise ValueError(f"'{place}' has no '{name}'{hint}") from None
        except Exception as error:  # of a module that imports what it offers when it is asked for it
            raise ValueError(f"'{place}' cannot give '{name}': {described(error)}") from error
    return target


def imported_files() -> list[str]:
    """The Python files that have been imported by their path."""
    return [str(module.__file__) for name, module in list(sys.modules.items()) if FILE_MODULE.fullmatch(name)]


@cache
def import_file(path: Path) -> ModuleType:
    """Execute a Python file once, as a module of its own; while it is executed, it can import what lies beside it."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}")
    # Not by its stem alone: a file `datasets.py` would take the place of a package of that name.
    name = f"{path.stem}_py_{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def check_arguments(target: Callable[..., Any], args: dict[str, Any], before: int = 0) -> None:
    """A `ValueError` where `target` cannot be called with these arguments by name, after `before` others."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some callables of C have no signature
        return
    try:
        signature.bind(*[None] * before, **args)
    except TypeError as error:
        known = signature.parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        unknown = [name for name in args if name not in known and not takes_any]
        sentences = [f"there is no argument '{name}'{did_you_mean(name, known)}" for name in unknown]
        raise ValueError("; ".join(sentences) or str(error)) from error


def models_in(params: Params) -> Iterator[tuple[str, Source]]:
    """Every model among the fields of a technique's params, with its dotted place."""
    yield from _models_in(dict(params), "")


def _models_in(value: Any, place: str) -> Iterator[tuple[str, Source]]:
    if isinstance(value, Source):
        yield place, value
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value, start=1)
        for key, item in items:
            yield from _models_in(item, f"{place}.{key}" if place else str(key))
