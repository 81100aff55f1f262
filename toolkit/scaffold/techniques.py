"""A distribution with one technique that works, keeps the contract, and is meant to be changed."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from pathlib import Path

from toolkit.errors import InputError
from toolkit.hooks.loading import installed
from toolkit.scaffold.templates import render

# Where each template goes; braces are filled in.
FILES = {
    "setup.cfg.j2": "setup.cfg",
    "pyproject.toml.j2": "pyproject.toml",
    "README.md.j2": "README.md",
    "module.py.j2": "{module}.py",
    "tests/test_module.py.j2": "tests/test_{module}.py",
    "recipes/recipe.toml.j2": "recipes/{name}.toml",
}


def new_technique(name: str, output: Path | None = None) -> Path:
    """Write the folder `toolkit-NAME`, or `output`, and return its path.

    Raises:
        InputError: the name cannot be one or is taken, or the folder exists.
    """
    _require_free(name)
    words = {"name": name, "module": f"toolkit_{name.replace('-', '_')}", "distribution": f"toolkit-{name}"}
    folder = output or Path(words["distribution"])
    if folder.exists():
        raise InputError(f"{folder} exists: take another --output, or delete it")
    for path, text in _files(words):
        _write(folder / path, text)
    return folder


def _require_free(name: str) -> None:
    """Refuse a name that is none for a module and a distribution, or that recipes use already."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60 or keyword.iskeyword(name):
        raise InputError(f"'{name}' cannot name a technique: take small letters, digits and single hyphens")
    for plugin in installed():
        if plugin.name == name:
            raise InputError(f"'{name}' is brought by {plugin.distribution} already: take another name")


def _files(words: dict[str, str]) -> Iterator[tuple[str, str]]:
    for template, place in FILES.items():
        yield place.format(**words), render(f"technique/{template}", **words)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
