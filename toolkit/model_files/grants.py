"""What a caller allows a file to consist of, by `allow=` or `--allow`: classes, names, files, packages."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

from toolkit.errors import InputError, described
from toolkit.importing import FILE_MODULE, absolute_source, import_file, object_named
from toolkit.model_files.safe.refusal import NEVER

Entry: TypeAlias = "type | Callable[..., Any] | ModuleType | str"
FORMS = "classes, or names such as 'nets:Net', 'nets.py' and 'transformers'"


class Builder(NamedTuple):
    """A callable that builds networks, and the source that names it here."""

    source: str
    call: Callable[..., Any]


@dataclass(frozen=True)
class Grant:
    """What the entries allow.

    Attributes:
        objects: classes and functions, by which a file may name classes and functions of the same qualified name.
        packages: names of packages and modules, whose layers, functions and settings are allowed.
        builders: what may be called to build a network, by the name that files have for it. Files choose the arguments,
            so only what the caller names itself is among them.
    """

    objects: tuple[Any, ...] = ()
    packages: tuple[str, ...] = ()
    builders: Mapping[str, Builder] = field(default_factory=dict)


def granted(allow: Sequence[Entry]) -> Grant:
    """Return what the caller's entries allow; files and packages are imported.

    Raises:
        InputError: an entry names nothing, or is none of these.
    """
    if isinstance(allow, str):
        raise InputError(f"allow must be a list, found the string '{allow}'; pass ['{allow}']")
    objects: list[Any] = []
    packages: list[str] = []
    builders: dict[str, Builder] = {}
    for entry in allow:
        named = _named(entry)
        if not isinstance(named, ModuleType):
            builder = Builder(_source_of(entry), named)
            builders[stored_source(builder.source)] = builder
        is_function = not isinstance(named, type | ModuleType)
        if isinstance(entry, str) and is_function:  # it builds a network of what lies beside it
            named = _named(entry.rpartition(":")[0])
        if not isinstance(named, ModuleType):
            objects.append(named)
        elif FILE_MODULE.fullmatch(named.__name__):
            objects += _defined_in(named)
        elif not is_function or named.__name__.partition(".")[0] not in NEVER:
            packages.append(_checked(named.__name__))
    return Grant(tuple(objects), tuple(packages), builders)


def stored_source(source: str) -> str:
    """Return the source without the folder of its file, which another machine may not have."""
    place, _, name = source.rpartition(":")
    return f"{os.path.basename(place) if place.endswith('.py') else place}:{name}"


def _named(entry: Entry) -> Any:
    """Return the module, class or function that an entry stands for."""
    if isinstance(entry, str):
        is_whole = entry.endswith(".py") or ":" not in entry  # a path may have the colon of a drive
        try:
            return _module(entry) if is_whole else object_named(absolute_source(entry, Path()))
        except ValueError as error:
            raise InputError(f"allow: {error}") from error
    if isinstance(entry, type | ModuleType) or inspect.isfunction(entry):
        return entry
    raise InputError(f"allow must be {FORMS}, found {entry!r}")


def _source_of(entry: Any) -> str:
    if isinstance(entry, str):
        return absolute_source(entry, Path())
    module = entry.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"{file if file and FILE_MODULE.fullmatch(module) else module}:{entry.__qualname__}"


def _module(name: str) -> ModuleType:
    if name.endswith(".py") and not os.path.isfile(name):
        raise ValueError(f"'{name}' does not exist")
    try:
        return import_file(Path(os.path.realpath(name))) if name.endswith(".py") else importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import '{name}': {described(error)}") from error


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
