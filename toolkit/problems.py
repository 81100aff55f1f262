"""What pydantic found, in the words of a recipe: a dotted place that counts from 1, and one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from toolkit.errors import Problem, did_you_mean
from toolkit.tables import Nested

NOT_A_TABLE = ("model_type", "model_attributes_type", "dict_type")


def problems_of(error: ValidationError, table: type[BaseModel], within: str = "") -> Iterator[Problem]:
    """Every mistake in `error`, which validating `table` at the place `within` raised."""
    for details in error.errors(include_url=False):
        location, holder, is_branch = _follow(table, details["loc"])
        if is_branch and _is_of_another_branch(details):
            continue
        place = dotted(location, within)
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, Nested):
            yield from problems_of(cause.error, cause.table, place)
        else:
            yield Problem(place, _sentence(details, _keys(holder)))


def dotted(location: Sequence[str | int], within: str = "") -> str:
    """`("stages", 0, "params")` as `stages.1.params`."""
    parts = [str(part + 1) if isinstance(part, int) else part for part in location]
    return ".".join(filter(None, [within, *parts]))


def _follow(table: Any, location: Sequence[str | int]) -> tuple[list[str | int], Any, bool]:
    """A location without the names by which pydantic tells the members of a union apart, the annotation of what
    holds its last part, and whether the error is about such a member as a whole."""
    parts: list[str | int] = []
    holder, here, is_branch = table, table, False
    for part in location:
        is_branch = _is_choice(here)
        if is_branch:
            here = next((member for member in get_args(here) if getattr(member, "__name__", None) == part), None)
        else:
            holder, parts = here, [*parts, part]
            here = _inner(here, part)
    return parts, holder, is_branch


def _is_choice(annotation: Any) -> bool:
    """Whether it is a union of more than one type besides None."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    return get_origin(annotation) in (Union, UnionType) and len(members) > 1


def _inner(annotation: Any, part: str | int) -> Any:
    """The annotation of what lies at `part` in something annotated so."""
    if isinstance(part, int):
        return next(iter(get_args(annotation)), None)
    for table in _tables_in(annotation):
        for name, field in table.model_fields.items():
            if part == (field.alias or name):
                return field.annotation
    return None


def _keys(annotation: Any) -> list[str]:
    tables = _tables_in(annotation)
    return [field.alias or name for table in tables for name, field in table.model_fields.items()]


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_in(argument)


def _is_of_another_branch(details: Mapping[str, Any]) -> bool:
    """Whether the error only says that a table is none of some names, or that a name is no table."""
    return details["type"] in NOT_A_TABLE or (isinstance(details["input"], dict) and details["type"] != "value_error")


def _sentence(details: Mapping[str, Any], known: Sequence[str]) -> str:
    kind, found = details["type"], f", found {_shown(details['input'])}"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"is not a known key{did_you_mean(str(details['loc'][-1]), known)}"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind in NOT_A_TABLE:
        return f"must be a table{found}"
    if kind == "list_type":
        return f"must be a list{found}"
    if kind == "too_short":
        return f"must have at least {details['ctx']['min_length']} entry{found}"
    return f"{details['msg'].replace('Input should', 'must')}{found}"


def _shown(value: Any) -> str:
    """A value as TOML writes it, shortened."""
    try:
        text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python refuses to write a number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}…"
