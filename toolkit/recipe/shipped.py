"""The recipes that come with the toolkit, and how a recipe is found by name. Needs nothing but files."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from toolkit.errors import InputError, did_you_mean


def shipped() -> dict[str, Path]:
    """The recipes that come with the toolkit, by name."""
    folder = Path(str(files("toolkit.recipes")))
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.toml")}
    return dict(sorted(found.items()))


def locate(recipe: str | Path) -> Path:
    """The file that is meant by a path or by the name of a shipped recipe."""
    path = Path(recipe)
    if os.path.isfile(path):  # Path.is_file raises for a name that is too long
        return path
    known = shipped()
    if str(recipe) in known:
        return known[str(recipe)]
    if os.path.isdir(path):
        raise InputError(f"{str(recipe)!r} is a directory: name a recipe, which is a file")
    hint = did_you_mean(path.name.removesuffix(".toml"), known)
    raise InputError(f"there is no recipe {str(recipe)!r}{hint} (a file, or a shipped recipe)")


def summary(path: Path) -> str:
    """The first line of the comment that opens a recipe, after the one that names a schema to editors."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if not line.startswith("#:")), "")
    return first.lstrip("# ").strip()
