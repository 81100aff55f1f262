"""The `--allow` options for the classes that the files of a run need."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.errors import ArtifactError
from toolkit.model_files.safe.refusal import entries_for, is_importable
from toolkit.storage.run_directory import RECIPE

FILE_SOURCE = re.compile(r"(.*\.py):[\w.]+", re.DOTALL)


def allow_options(refusals: Iterable[ArtifactError], folder: Path) -> list[str]:
    """Return the options that allow the classes of some refusals; nothing for classes that no source names.

    A class from a file is stored with the stem of the file. Its path is that of a file in the run's recipe.
    """
    names = sorted({name for error in refusals for name in error.unknown if is_importable(name)})
    files = [Path(path) for path in _files(folder)]
    return [word for entry in entries_for(names) for word in ("--allow", _located(entry, files))]


def _located(entry: str, files: Sequence[Path]) -> str:
    """Return an entry of `allow` with the path of its file, if it is one of these."""
    name, colon, path = entry.partition(":")
    file = next((file for file in files if file.name == name), Path(name))
    return f"{file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}{colon}{path}"


def _files(folder: Path) -> Iterator[str]:
    """Yield the Python files that the recipe of a run names."""
    folder = folder.parent if folder.is_file() else folder
    for recipe in (folder / RECIPE, folder / ".." / ".." / RECIPE):
        with suppress(OSError, ValueError, RecursionError):
            yield from _files_in(tomllib.loads(recipe.read_text(encoding="utf-8")))


def _files_in(value: Any) -> Iterator[str]:
    if isinstance(value, str) and (match := FILE_SOURCE.fullmatch(value)):
        yield match[1]
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _files_in(item)
