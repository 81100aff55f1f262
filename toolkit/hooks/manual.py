"""The manual page of a plugin, made of its docstring and its `Params`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo
from tabulate import tabulate

from toolkit.errors import InputError, TechniqueError
from toolkit.hooks.loading import SPECIFICATIONS, Plugin, find, load
from toolkit.params import Params


def manual(name: str) -> str:
    """Return the page that `toolkit techniques NAME` prints."""
    plugin = find(name)
    technique = _loaded(name)
    about = inspect.getdoc(technique.module) or plugin.summary
    return f"{name} ({plugin.distribution})\n\n{about}\n\n{parameters(technique.params_class)}"


def parameters(params: type[Params]) -> str:
    """Return a table of the params (type, range, default, description), and one for each table among them."""
    if not params.model_fields:
        return "It has no params."
    inner = [
        _table(table, f"{name}: each")
        for name, field in params.model_fields.items()
        for table in tables_in(field.annotation)
    ]
    return "\n\n".join([_table(params, "params"), *inner])


def _table(params: type[Params], title: str) -> str:
    rows = [[*describe_field(field.alias or name, field)] for name, field in params.model_fields.items()]
    headers = [title, "takes", "default", "description"]
    return tabulate(rows, headers, tablefmt="simple", maxcolwidths=[None, 24, 14, 48], disable_numparse=True)


def tables_in(annotation: Any) -> Iterator[type[Params]]:
    """Yield the tables of settings in a field of this type."""
    if isinstance(annotation, type) and issubclass(annotation, Params):
        yield annotation
    for argument in get_args(annotation):
        yield from tables_in(argument)


def _loaded(name: str) -> Plugin:
    """Load a plugin as the kind that it is; the error is about the kind that its source says first."""
    problems = []
    for role in sorted(SPECIFICATIONS, key=lambda role: role not in find(name).roles):
        try:
            return load(name, role)
        except TechniqueError as error:
            problems.append(error)
    raise InputError(str(problems[0])) from problems[0]


def describe_field(name: str, field: FieldInfo) -> Iterator[str]:
    """Four cells: the name, what it takes with its range, the default and the description."""
    yield name
    yield " ".join([_type(field.annotation), *_bounds(field.metadata)])
    yield "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
    yield field.description or ""


def _default(value: Any) -> str:
    # As TOML writes it. Besides, tabulate would show the word False as True.
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _type(annotation: Any) -> str:
    choices = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return " ".join([_type(choices[0]), *_bounds(choices[1:])])
    if not choices:
        return getattr(annotation, "__name__", str(annotation)).replace("NoneType", "none").lower()
    if all(isinstance(choice, (str, int)) for choice in choices):
        return ", ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices)
    if get_origin(annotation) is dict:
        return f"table of {_type(choices[1])}"
    inner = " or ".join(text for choice in choices if (text := _type(choice)) != "none")
    return f"list of {inner}" if get_origin(annotation) in (list, tuple) else inner


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for constraint in metadata:
        if isinstance(constraint, FieldInfo):  # of the items of a list
            yield from _bounds(constraint.metadata)
        for name, sign in signs.items():
            if hasattr(constraint, name):
                yield f"{sign} {getattr(constraint, name):g}"
