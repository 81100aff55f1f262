"""Names of layers and weights as patterns such as `fc*`: what they match, and which of them counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from toolkit.errors import TechniqueError

__all__ = ["match", "most_exact", "unmatched"]

Value = TypeVar("Value")


def match(names: Iterable[str], patterns: Collection[str]) -> bool:
    """Whether a pattern matches one of the names of a thing; case counts."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def unmatched(patterns: Iterable[str], names: Collection[str], shown: Sequence[str] = (), what: str = "layer") -> str:
    """What is wrong with the first pattern that matches none of the names, in words; empty if all match.

    Args:
        patterns: as they were given.
        names: all that they could match.
        shown: those of them that a user is told of, the closest ones or the first ten; all unless given.
        what: the names are of.
    """
    known = shown or list(names)
    for pattern in patterns:
        if not match(names, [pattern]):
            close = get_close_matches(pattern, known, n=5) or known[:10]
            return f"no {what} matches '{pattern}'; known: {', '.join(close)}"
    return ""


def most_exact(names: Sequence[str], table: Mapping[str, Value], place: str) -> Value | None:
    """What a table of patterns says of a thing: the pattern with the most characters that are no wildcards.

    Not the first one: the order of a table's keys is nothing that two equal recipes must share.

    Args:
        names: of the thing; the first is what a user is told.
        table: values by pattern.
        place: where the table stands in the recipe.

    Returns:
        None if no pattern matches.

    Raises:
        TechniqueError: two that are equally exact disagree.
    """
    found = sorted((-_literals(pattern), pattern) for pattern in table if match(names, [pattern]))
    best = [pattern for length, pattern in found if length == found[0][0]]
    for other in best[1:]:
        if table[other] != table[best[0]]:
            raise TechniqueError(
                f"'{best[0]}' and '{other}' in {place} disagree about '{names[0]}': make one more exact"
            )
    return table[best[0]] if best else None


def _literals(pattern: str) -> int:
    return sum(character not in "*?[]" for character in pattern)
