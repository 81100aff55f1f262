"""`--set stages.1.params.sparsity=0.9`: values of a recipe replaced by place."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import tomli_w

from toolkit.errors import InputError, Problem


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1"]` as `{"a.b": 1}`: values are TOML, and text where they are not."""
    overrides = {}
    for setting in settings:
        place, equals, value = setting.partition("=")
        if not equals or not place.strip():
            shown = setting if len(setting) <= 200 else f"{setting[:199]}…"
            raise InputError(f"--set takes PLACE=VALUE, such as stages.1.params.sparsity=0.9, not {shown!r}")
        overrides[place.strip()] = _value(value.strip())
    return overrides


def apply_overrides(content: dict[str, Any], overrides: Mapping[str, Any]) -> list[Problem]:
    """Replace values in a recipe's content; places that lead nowhere are returned as problems.

    A table that a recipe may have but does not is made; whether its keys are known is checked with all others.
    The values are copied, as TOML would hold them: a later override may change what an earlier one gave.
    """
    problems = [_override(content, place, value) for place, value in overrides.items()]
    return [problem for problem in problems if problem is not None]


def _value(text: str) -> Any:
    try:
        content = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return content["value"] if len(content) == 1 else text  # text of several lines may go on with other keys


def _override(content: dict[str, Any], place: str, value: Any) -> Problem | None:
    try:
        text = tomli_w.dumps({place: value})
        text.encode()
        held = tomllib.loads(text)[place]
    except UnicodeEncodeError:  # an argument of the command line may hold any bytes
        return Problem(place, "is not text in UTF-8")
    except (TypeError, ValueError, RecursionError):
        return Problem(place or '""', f"must be a value that TOML can hold, found {type(value).__name__}")
    return _apply(content, place, held)


def _apply(content: dict[str, Any], place: str, value: Any) -> Problem | None:
    *parents, last = place.split(".")
    here: Any = content
    for depth, part in enumerate(parents, start=1):
        if isinstance(here, dict):
            here = here.setdefault(part, {})
        elif isinstance(here, list) and _position(here, part) is not None:
            here = here[_position(here, part) or 0]
        else:
            return _nowhere(place, ".".join(parents[: depth - 1]), here, part)
    if isinstance(here, dict):
        here[last] = value
    elif isinstance(here, list) and _position(here, last) is not None:
        here[_position(here, last) or 0] = value
    else:
        return _nowhere(place, ".".join(parents), here, last)
    return None


def _position(items: list[Any], part: str) -> int | None:
    """The index of the entry that `part` names, counted from 1."""
    positions = {str(number): number - 1 for number in range(1, len(items) + 1)}
    return positions.get(part)


def _nowhere(place: str, parent: str, here: Any, part: str) -> Problem:
    if isinstance(here, list):
        found = f"'{parent}' has the entries 1 to {len(here)}" if here else f"'{parent}' is empty"
    else:
        found = f"'{parent}' is a value, not a table"
    return Problem(place, f"--set leads nowhere at '{part}': {found}")
