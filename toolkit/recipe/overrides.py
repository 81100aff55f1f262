"""Overrides of a recipe's values by place: `--set stages.1.params.sparsity=0.9`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import tomli_w

from toolkit.errors import InputError, Problem


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Return `["a.b=1"]` as `{"a.b": 1}`. A value that is not TOML is text."""
    overrides = {}
    for setting in settings:
        place, equals, value = setting.partition("=")
        if not equals or not place.strip():
            text = setting if len(setting) <= 200 else f"{setting[:199]}…"
            raise InputError(f"--set must be PLACE=VALUE, found {text!r}")
        overrides[place.strip()] = _value(value.strip())
    return overrides


def apply_overrides(content: dict[str, Any], overrides: Mapping[str, Any]) -> list[Problem]:
    """Replace values in a recipe's content; return a problem for each place that does not exist.

    Missing tables are created; their keys are checked later, with those of the file. Values are copied by way of TOML,
    because a later override may change the value of an earlier one.
    """
    problems = [_override(content, place, value) for place, value in overrides.items()]
    return [problem for problem in problems if problem is not None]


def _value(text: str) -> Any:
    try:
        content = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return content["value"] if len(content) == 1 else text  # several lines may contain further keys


def _override(content: dict[str, Any], place: str, value: Any) -> Problem | None:
    try:
        text = tomli_w.dumps({place: value})
        text.encode()
        copied = tomllib.loads(text)[place]
    except UnicodeEncodeError:  # command-line arguments may contain any bytes
        return Problem(place, "is not valid UTF-8")
    except (TypeError, ValueError, RecursionError):
        return Problem(place or '""', f"must be a TOML value, found {type(value).__name__}")
    return _apply(content, place, copied)


def _apply(content: dict[str, Any], place: str, value: Any) -> Problem | None:
    *parents, last = place.split(".")
    node: Any = content
    for depth, part in enumerate(parents, start=1):
        if isinstance(node, dict):
            node = node.setdefault(part, {})
        elif isinstance(node, list) and _position(node, part) is not None:
            node = node[_position(node, part) or 0]
        else:
            return _no_such_entry(place, ".".join(parents[: depth - 1]), node, part)
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list) and _position(node, last) is not None:
        node[_position(node, last) or 0] = value
    else:
        return _no_such_entry(place, ".".join(parents), node, last)
    return None


def _position(items: list[Any], part: str) -> int | None:
    """Return the index of the entry that `part` names (from 1), or None."""
    positions = {str(number): number - 1 for number in range(1, len(items) + 1)}
    return positions.get(part)


def _no_such_entry(place: str, parent: str, node: Any, part: str) -> Problem:
    if isinstance(node, list):
        reason = f"'{parent}' has the entries 1 to {len(node)}" if node else f"'{parent}' is empty"
    else:
        reason = f"'{parent}' is a value, not a table"
    return Problem(place, f"--set has no entry '{part}'; {reason}")
