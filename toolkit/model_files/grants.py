"""What a caller allows a file to consist of, by `allow=` or `--allow`: classes, names, files, packages."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from toolkit.errors import InputError, described
from toolkit.importing import FILE_MODULE, absolute_source, import_file, object_named
from toolkit.model_files.safe.refusal import NEVER

Entry: TypeAlias = "type | Callable[..., Any] | ModuleType | str"
FORMS = "classes, or names such as 'nets:Net', 'nets.py' and 'transformers'"


@dataclass(frozen=True)
class Grant:
    """What the entries allow.

    Attributes:
        objects: classes and functions, by which a file may name classes and functions of the same qualified name.
        packages: names of packages and modules, whose layers, functions and settings are allowed.
    """

    objects: tuple[Any, ...] = ()
    packages: tuple[str, ...] = ()


def granted(allow: Sequence[Entry]) -> Grant:
    """Return what the caller's entries allow; files and packages are imported.

    Raises:
        InputError: an entry names nothing, or is none of these.
    """
    if isinstance(allow, str):
        raise InputError(f"allow must be a list, found the string '{allow}'; pass ['{allow}']")
    objects: list[Any] = []
    packages: list[str] = []
    for entry in allow:
        granted_object = _object(entry)
        if isinstance(granted_object, ModuleType):
            if FILE_MODULE.fullmatch(granted_object.__name__):
                objects += _defined_in(granted_object)
            else:
                packages.append(_checked(granted_object.__name__))
        else:
            objects.append(granted_object)
    return Grant(tuple(objects), tuple(packages))


def _object(entry: Entry) -> Any:
    """Return the module, class or function that an entry stands for; of another object, the module that it is from."""
    if isinstance(entry, str):
        place, _, name = absolute_source(entry, Path()).rpartition(":")
        try:
            entry = object_named(f"{place}:{name}") if place else _module(name)
        except ValueError as error:
            raise InputError(f"allow: {error}") from error
        if not isinstance(entry, type | ModuleType):  # a function that builds the network
            return _module(place)
    if isinstance(entry, type | ModuleType) or inspect.isfunction(entry):
        return entry
    raise InputError(f"allow must be {FORMS}, found {entry!r}")


def _module(name: str) -> ModuleType:
    try:
        return import_file(Path(os.path.realpath(name))) if name.endswith(".py") else importlib.import_module(name)
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, FileNotFoundError) else described(error)
        raise ValueError(f"cannot import '{name}': {reason}") from error


def _checked(package: str) -> str:
    # The classes and functions of these packages do far more than networks need.
    if package.partition(".")[0] in NEVER:
        raise InputError(f"allow: '{package}' cannot be allowed as a whole; name the class, as in '{package}:Name'")
    return package


def _defined_in(module: ModuleType) -> Iterator[Any]:
    """Yield the classes and functions of a file, without those that it imports."""
    for value in vars(module).values():
        is_own = getattr(value, "__module__", None) == module.__name__
        if is_own and (isinstance(value, type) or inspect.isfunction(value)):
            yield value
