"""Patterns such as `fc*` that select layers and weights by name.

Every function that selects takes the names first and the patterns second. `*` matches any characters, `?` one, `[ab]`
one of several; case counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from toolkit.errors import TechniqueError

__all__ = ["match", "most_exact", "reasons_text", "require_match", "unmatched"]

MAX_LISTED = 10
MAX_CLOSE = 5
MAX_NAMED = 3  # layers with the same reason

Value = TypeVar("Value")


def match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Return whether any of the patterns matches any of the names of one thing.

    Raises:
        TypeError: `names` or `patterns` is a string, not a list of strings.
    """
    patterns = _listed(patterns, "patterns")
    return any(fnmatchcase(name, pattern) for name in _listed(names, "names") for pattern in patterns)


def unmatched(names: Iterable[str], patterns: Iterable[str], shown: Sequence[str] = (), what: str = "layer") -> str:
    """Return a sentence about the first pattern that matches none of the names; empty if every pattern matches.

    Args:
        names: everything that a pattern could match.
        patterns: as the recipe gives them.
        shown: the names to suggest: the closest ones, or the first ten; `names` by default.
        what: the kind of thing that the names name.

    Raises:
        TypeError: `names` or `patterns` is a string, not a list of strings.
    """
    names = _listed(names, "names")
    known = shown or names
    for pattern in _listed(patterns, "patterns"):
        if not match(names, [pattern]):
            close = get_close_matches(pattern, known, n=MAX_CLOSE) or known[:MAX_LISTED]
            return f"no {what} matches '{pattern}'; known: {', '.join(close)}"
    return ""


def require_match(
    names: Iterable[str], patterns: Iterable[str], shown: Sequence[str] = (), what: str = "layer"
) -> None:
    """Refuse a pattern that matches none of the names, such as a misspelt layer. Arguments as for `unmatched`.

    Raises:
        TechniqueError: names the first such pattern, and the names that come closest.
        TypeError: `names` or `patterns` is a string, not a list of strings.
    """
    if problem := unmatched(names, patterns, shown, what):
        raise TechniqueError(problem)


def most_exact(names: Sequence[str], table: Mapping[str, Value], place: str) -> Value | None:
    """Return the value of the matching pattern with the most literal characters, None if no pattern matches.

    The order of the table does not count: two recipes with the same keys mean the same.

    Args:
        names: the names of one thing; an error shows the first.
        table: values by pattern.
        place: where the recipe has the table.

    Raises:
        TechniqueError: two equally exact patterns have different values.
        TypeError: `names` is a string, not a list of strings.
    """
    ranked = sorted((-_literals(pattern), pattern) for pattern in table if match(names, [pattern]))
    best = [pattern for length, pattern in ranked if length == ranked[0][0]]
    for other in best[1:]:
        if table[other] != table[best[0]]:
            raise TechniqueError(
                f"'{best[0]}' and '{other}' in {place} disagree about '{names[0]}'; make one more exact"
            )
    return table[best[0]] if best else None


def reasons_text(reasons: Mapping[str, str]) -> str:
    """Return the reason of each layer as one clause, each reason once: `conv, fc1, fc2 and 4 more: excluded; ...`."""
    layers: dict[str, list[str]] = {}
    for layer, reason in reasons.items():
        layers.setdefault(reason, []).append(layer)
    return "; ".join(f"{_first_of(names)}: {reason}" for reason, names in layers.items())


def _first_of(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _listed(strings: Iterable[str], argument: str) -> list[str]:
    # The characters of a string are strings, too: 'fc1' would pass for three names.
    if isinstance(strings, str):
        raise TypeError(f"{argument} must be a list of strings, not the string '{strings}': write ['{strings}']")
    return list(strings)


def _literals(pattern: str) -> int:
    return sum(character not in "*?[]" for character in pattern)
