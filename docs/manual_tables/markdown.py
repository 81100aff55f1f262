"""Tables and texts in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are Markdown already."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def text(plain: str) -> str:
    """Plain text with code between backticks, as descriptions and docstrings have it, on one line."""
    parts = " ".join(plain.split()).split("`")
    escaped = [re.sub(r"([*_<>\[\]{}|~])", r"\\\1", part) for part in parts[::2]]
    codes = [code(part) for part in parts[1::2]]
    return "".join(part for pair in zip(escaped, [*codes, ""], strict=False) for part in pair)


def paragraphs(plain: str) -> str:
    """Plain text of several paragraphs."""
    return "\n\n".join(text(paragraph) for paragraph in re.split(r"\n\s*\n", plain.strip()))


def code(plain: str) -> str:
    """Code in a table, in which only a pipe means something."""
    return f"`{plain}`".replace("|", r"\|") if plain else ""
