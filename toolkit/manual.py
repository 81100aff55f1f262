"""What a technique does and takes, from its docstrings and its `Params`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

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
    default = field.get_default(call_default_factory=True)
    # As in TOML; and tabulate takes the text "False" for something that is true.
    yield str(default).lower() if isinstance(default, bool) else repr(default)
    yield field.description or ""


def _type(annotation: Any) -> str:
    choices = get_args(annotation)
    if get_origin(annotation) is Annotated:
        bounds = [bound for field in choices[1:] for bound in _bounds(field)]
        return " ".join([_type(choices[0]), *bounds])
    if get_origin(annotation) is dict:
        return f"table of {_type(choices[1])}"
    if not choices:
        return getattr(annotation, "__name__", str(annotation)).replace("NoneType", "none").lower()
    if all(isinstance(choice, (str, int)) for choice in choices):
        return ", ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices)
    inner = " or ".join(_type(choice) for choice in choices if choice is not type(None))
    return f"list of {inner}" if get_origin(annotation) in (list, tuple) else inner


def _bounds(field: FieldInfo) -> Iterator[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for constraint in field.metadata:
        for name, sign in signs.items():
            if hasattr(constraint, name):
                yield f"{sign} {getattr(constraint, name):g}"
