"""What pydantic found, in the words of a recipe: a dotted place that counts from 1, and one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from toolkit.errors import Problem, did_you_mean
from toolkit.recipe.tables import Nested

LONGEST = 6_000  # characters of a sentence or a place: more than the longest path of a file
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
    """`("stages", 0, "params")` as `stages.1.params`; keys that are no plain words are quoted, as TOML does."""
    parts = [str(part + 1) if isinstance(part, int) else _quoted(part) for part in location]
    return ".".join([within, *parts] if within else parts)


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else json.dumps(key, ensure_ascii=False)


def readable(problem: Problem) -> Problem:
    """The same problem on one line that every terminal can show: what it quotes from a recipe may hold anything."""
    return Problem(printable(problem.place), printable(problem.message))


def printable(text: str) -> str:
    """Control characters and the like are escaped, and the middle of a very long text is left out."""
    plain = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1_000]} … {plain[-900:]}"


def numbers_beyond_toml(content: Any, location: Sequence[str | int] = ()) -> Iterator[Problem]:
    """Whole numbers of more than the 64 bits that TOML promises: Python reads them, but may be unable to write them."""
    if isinstance(content, int) and not -(2**63) <= content < 2**63:
        yield Problem(dotted(location), f"must fit in 64 bits, found {_shown(content)}")
    elif isinstance(content, (dict, list)):
        for key, item in content.items() if isinstance(content, dict) else enumerate(content):
            yield from numbers_beyond_toml(item, (*location, key))


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
    for member in (annotation, *get_args(annotation)):
        if get_origin(member) is dict:  # its keys are no fields, whatever they are called
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
        least = details["ctx"]["min_length"]
        return f"must have at least {least} {'entry' if least == 1 else 'entries'}{found}"
    return f"{details['msg'].replace('Input should', 'must')}{found}"


def _shown(value: Any) -> str:
    """A value as TOML writes it, shortened."""
    try:
        text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python refuses to write a number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}…"
