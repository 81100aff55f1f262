"""The shipped recipes, and the lookup of a recipe by path or name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from toolkit.errors import InputError, closest, did_you_mean


def shipped() -> dict[str, Path]:
    """Return the path of each shipped recipe, by name."""
    folder = Path(str(files("toolkit.recipes")))
    recipes = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.toml")}
    return dict(sorted(recipes.items()))


def locate(recipe: str | Path) -> Path:
    """Return the file of a recipe, given by path or by the name of a shipped one; raise an `InputError` if missing."""
    path = Path(recipe)
    if os.path.isfile(path):  # Path.is_file raises if the name is too long
        return path
    recipes = shipped()
    if str(recipe) in recipes:
        return recipes[str(recipe)]
    if os.path.isdir(path):
        raise InputError(f"{str(recipe)!r} is a directory; pass a recipe file")
    hint = _meant(path, recipes)
    raise InputError(f"recipe {str(recipe)!r} does not exist, neither as a file nor as a shipped recipe{hint}")


def _meant(path: Path, recipes: Mapping[str, Path]) -> str:
    """Return which recipe is meant, a file in the same folder or a shipped one, or the names of all shipped ones."""
    beside = {file.stem: str(file) for file in path.parent.glob("*.toml")} if os.path.isdir(path.parent) else {}
    name = path.name.removesuffix(".toml")
    close = closest(name, [*recipes, *beside])
    return f"; did you mean '{beside.get(close, close)}'?" if close else did_you_mean(name, recipes)


def summary(path: Path) -> str:
    """Return the first line of a recipe's opening comment, except for a line that names a schema to editors."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if not line.startswith("#:")), "")
    return first.lstrip("# ").strip()
