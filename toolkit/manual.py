"""What a technique does and takes, from its docstrings and its `Params`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo
from tabulate import tabulate

from toolkit.errors import InputError, TechniqueError
from toolkit.params import Params
from toolkit.techniques import Role, Technique, find, load


def manual(name: str) -> str:
    """The page that `toolkit techniques NAME` prints."""
    plugin = find(name)
    technique = _either(name)
    about = inspect.getdoc(technique.module) or plugin.summary
    return f"{name} ({plugin.distribution})\n\n{about}\n\n{parameters(technique.params_class)}"


def parameters(params: type[Params]) -> str:
    """A table of the settings: name, type or choices, range, default, description."""
    rows = [[*_field(name, field)] for name, field in params.model_fields.items()]
    if not rows:
        return "It has no params."
    headers = ["params", "takes", "default", "description"]
    return tabulate(rows, headers, tablefmt="simple", maxcolwidths=[None, 24, 14, 48], disable_numparse=True)


def _either(name: str) -> Technique:
    roles: tuple[Role, Role] = ("technique", "observer")
    try:
        return load(name, roles[0])
    except TechniqueError as error:
        try:
            return load(name, roles[1])
        except TechniqueError:
            raise InputError(str(error)) from error


def _field(name: str, field: FieldInfo) -> Iterator[str]:
    yield name
    yield " ".join([_type(field.annotation), *_bounds(field)])
    yield repr(field.get_default(call_default_factory=True))
    yield field.description or ""


def _type(annotation: Any) -> str:
    choices = get_args(annotation)
    if not choices:
        return getattr(annotation, "__name__", str(annotation)).replace("NoneType", "none").lower()
    if all(isinstance(choice, (str, int)) for choice in choices):
        return ", ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices)
    inner = " or ".join(_type(choice) for choice in choices if choice is not type(None))
    return f"list of {inner}" if getattr(annotation, "__origin__", None) in (list, tuple) else inner


def _bounds(field: FieldInfo) -> Iterator[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for constraint in field.metadata:
        for name, sign in signs.items():
            if hasattr(constraint, name):
                yield f"{sign} {getattr(constraint, name):g}"
