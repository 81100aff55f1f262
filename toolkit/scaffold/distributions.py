"""A new distribution with one plugin, a technique or a runtime, that works and fulfills its contract."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

from toolkit.errors import InputError
from toolkit.hooks.loading import installed
from toolkit.scaffold.place import check_place, write_new
from toolkit.scaffold.templates import render

Kind: TypeAlias = Literal["technique", "runtime"]

# The path of each template's output, with placeholders in braces.
FILES = {
    "pyproject.toml.j2": "pyproject.toml",
    "README.md.j2": "README.md",
    "module.py.j2": "{module}.py",
    "tests/test_module.py.j2": "tests/test_{module}.py",
    "recipes/recipe.toml.j2": "recipes/{name}.toml",
}


def new_distribution(kind: Kind, name: str, output: Path | None = None) -> Path:
    """Write a plugin into the folder `toolkit-NAME`, or `output`, and return its path.

    Raises:
        InputError: the name is malformed or already in use, or the folder exists or cannot be written.
    """
    _check_name(kind, name)
    names = {
        "name": name,
        "title": name.replace("-", " ").capitalize(),
        "module": f"toolkit_{name.replace('-', '_')}",
        "distribution": f"toolkit-{name}",
        "bounds": _version_bounds(version("torch-optimization-toolkit")),
    }
    folder = output or Path(names["distribution"])
    check_place(folder)
    for path, text in _files(kind, names):
        write_new(folder / path, text)
    return folder


def _check_name(kind: Kind, name: str) -> None:
    """Raise an `InputError` if a name is malformed, or is the name of an installed plugin."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60 or keyword.iskeyword(name):
        raise InputError(f"'{name}' is not a name for a {kind}; use lower-case letters, digits and single hyphens")
    for plugin in installed():
        if plugin.name == name:
            raise InputError(f"'{name}' is already provided by {plugin.distribution}; choose another name")


def _version_bounds(installed_version: str) -> str:
    """Return the versions that a plugin written for this version works with: `>=0.1,<0.2` for 0.1.3."""
    major, minor = (int(part) for part in installed_version.split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 1}"


def _files(kind: Kind, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    for template, path in FILES.items():
        yield path.format(**names), render(f"{kind}/{template}", **names)
