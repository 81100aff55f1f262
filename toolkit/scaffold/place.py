"""New files, and whether they can be written, found out before any work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from toolkit.errors import InputError


def check_place(path: Path) -> None:
    """Raise an `InputError` if a file exists, or if it or its folders cannot be created; create nothing."""
    try:
        if _exists(path):
            raise InputError(f"{path} already exists; choose another --output, or delete it")
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --output") from error


def write_new(path: Path, text: str) -> None:
    """Write a file that does not exist, with the folders that it needs; an `InputError` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --output") from error


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True
