"""At which places two trees of settings differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ABSENT = "not there"


def settings_of(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a tree by its place; stages and other lists of tables count from 1."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from settings_of(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        for number, item in enumerate(content, start=1):
            yield from settings_of(item, f"{place}.{number}")
    else:
        yield place, str(content)


def differences(before: Any, now: Any) -> Iterator[str]:
    """One clause for each place whose values differ: long values, such as hashes, by their beginning."""
    one, other = dict(settings_of(before)), dict(settings_of(now))
    for place in dict.fromkeys([*one, *other]):
        if one.get(place) != other.get(place):
            yield f"{place} was {_short(one.get(place, ABSENT))} and is {_short(other.get(place, ABSENT))}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}…"
