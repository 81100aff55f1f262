"""The places where two trees of settings differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ABSENT = "absent"


def settings_of(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value of a tree with its place; entries of stages and other lists of tables count from 1."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from settings_of(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        for number, item in enumerate(content, start=1):
            yield from settings_of(item, f"{place}.{number}")
    else:
        yield place, str(content)


def differences(previous: Any, current: Any) -> Iterator[str]:
    """Yield one clause for each place whose values differ; long values, such as hashes, are cut."""
    old, new = dict(settings_of(previous)), dict(settings_of(current))
    for place in dict.fromkeys([*old, *new]):
        if old.get(place) != new.get(place):
            yield f"{place} was {_short(old.get(place, ABSENT))}, is now {_short(new.get(place, ABSENT))}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}…"
