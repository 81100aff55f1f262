"""Errors of pydantic as problems of a recipe: a dotted place that counts from 1, and one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from toolkit.errors import Problem, closest, did_you_mean
from toolkit.recipe.tables import NestedError

MAX_CHARACTERS = 6_000  # of a sentence or a place: longer than the longest file name
NOT_A_TABLE = ("model_type", "model_attributes_type", "dict_type")


def problems_of(error: ValidationError, table: type[BaseModel], within: str = "") -> Iterator[Problem]:
    """Yield every mistake in `error`, raised by the validation of `table` at the place `within`.

    A key that is missing because it is misspelt is one mistake.
    """
    mistakes = error.errors(include_url=False)
    told: list[str] = []
    of_branches: dict[str, Problem] = {}
    misspelt = {(*details["loc"][:-1], _meant(table, details)) for details in mistakes}
    for details in mistakes:
        location, holder, is_branch = _follow(table, details["loc"])
        place = dotted(location, within)
        if is_branch and _belongs_to_other_branch(details):
            of_branches.setdefault(place, Problem(place, _sentence(details, holder, table)))
            continue
        if details["type"] == "missing" and details["loc"] in misspelt:
            continue
        told.append(place)
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, NestedError):
            yield from problems_of(cause.error, cause.table, place)
        else:
            yield Problem(place, _sentence(details, holder, table))
    # A value that no branch was meant for is a mistake, too.
    for place, problem in of_branches.items():
        if not any(other == place or other.startswith(f"{place}.") for other in told):
            yield problem


def _meant(table: type[BaseModel], details: Mapping[str, Any]) -> str | None:
    """Return the key that an unknown key was probably meant to be."""
    if details["type"] != "extra_forbidden":
        return None
    return closest(str(details["loc"][-1]), _keys(_follow(table, details["loc"])[1]))


def dotted(location: Sequence[str | int], within: str = "") -> str:
    """Return `("stages", 0, "params")` as `stages.1.params`; keys with other characters are quoted as in TOML."""
    parts = [str(part + 1) if isinstance(part, int) else _quoted(part) for part in location]
    return ".".join([within, *parts] if within else parts)


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else json.dumps(key, ensure_ascii=False)


def readable(problem: Problem) -> Problem:
    """Return the problem as one printable line: the recipe that it quotes may contain any characters."""
    return Problem(printable(problem.place), printable(problem.message))


def printable(text: str) -> str:
    """Escape unprintable characters, and cut the middle of a very long text."""
    plain = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return plain if len(plain) <= MAX_CHARACTERS else f"{plain[: MAX_CHARACTERS - 1_000]} … {plain[-900:]}"


def integers_beyond_toml(content: Any, location: Sequence[str | int] = ()) -> Iterator[Problem]:
    """Yield a problem for each integer beyond TOML's 64 bits: Python can read them, but may fail to write them."""
    if isinstance(content, int) and not -(2**63) <= content < 2**63:
        yield Problem(dotted(location), f"must fit in 64 bits, found {_value_text(content)}")
    elif isinstance(content, (dict, list)):
        for key, item in content.items() if isinstance(content, dict) else enumerate(content):
            yield from integers_beyond_toml(item, (*location, key))


def _follow(table: Any, location: Sequence[str | int]) -> tuple[list[str | int], Any, bool]:
    """Return the location without pydantic's names of union members, the annotation that contains its last part, and
    whether the error is about a union member as a whole."""
    parts: list[str | int] = []
    holder, annotation, is_branch = table, table, False
    for part in location:
        is_branch = _is_choice(annotation)
        if is_branch:
            members = get_args(annotation)
            annotation = next((member for member in members if _name(member) == part), None)
        else:
            holder, parts = annotation, [*parts, part]
            annotation = _inner(annotation, part)
    return parts, holder, is_branch


def _name(member: Any) -> str | None:
    """Return the name of a type, annotated or not."""
    return getattr(get_args(member)[0] if get_origin(member) is Annotated else member, "__name__", None)


def _is_choice(annotation: Any) -> bool:
    """Return whether it is a union of several types other than None."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    return get_origin(annotation) in (Union, UnionType) and len(members) > 1


def _inner(annotation: Any, part: str | int) -> Any:
    """Return the annotation of the entry `part` of a value with this annotation."""
    if isinstance(part, int):
        return next(iter(get_args(annotation)), None)
    for member in (annotation, *get_args(annotation)):
        if get_origin(member) is dict:  # its keys are data, not fields
            return get_args(member)[1]
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


def _hint(key: str, holder: Any, table: type[BaseModel]) -> str:
    """Return which key was probably meant: of the same table, of a table in it (`model.training`), or of the top."""
    keys = _keys(holder)
    if key in _keys(table):
        return f"; did you mean '{key}' of the top level, before the first table?"
    below = {name: place for place, name in reversed(list(_keys_below(holder)))}
    near = closest(key, keys) is None and closest(key, below)
    return f"; did you mean '{below[near]}'?" if near else did_you_mean(key, keys)


def _keys_below(annotation: Any) -> Iterator[tuple[str, str]]:
    """Yield place and name of the keys of the tables in a table, those of an array of tables as of its first."""
    for table in _tables_in(annotation):
        for name, field in table.model_fields.items():
            key = field.alias or name
            first = f"{key}.1" if get_origin(field.annotation) is list else key
            yield from ((f"{first}.{inner}", inner) for inner in _keys(field.annotation))


def _belongs_to_other_branch(details: Mapping[str, Any]) -> bool:
    """Return whether the value, a table or a string, was meant for a different member of the union."""
    return details["type"] in NOT_A_TABLE or (isinstance(details["input"], dict) and details["type"] != "value_error")


def _sentence(details: Mapping[str, Any], holder: Any, table: type[BaseModel]) -> str:
    kind, found = details["type"], f", found {_value_text(details['input'])}"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"is not a known key{_hint(str(details['loc'][-1]), holder, table)}"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind in NOT_A_TABLE:
        return f"must be a table{found}"
    if kind == "list_type":
        return f"must be a list{found}"
    if kind == "too_short":
        length = details["ctx"]["min_length"]
        return f"must have at least {length} {'entry' if length == 1 else 'entries'}{found}"
    return f"{details['msg'].replace('Input should', 'must')}{found}"


def _value_text(value: Any) -> str:
    """Return a value roughly as TOML writes it, shortened."""
    try:
        text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python does not convert very long integers to text
        text = "an integer of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}…"
