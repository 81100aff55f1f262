"""Atomic writes: a crash leaves the old file or the new one, never a partial file."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".part"
RENAMES, RENAME_PAUSE_S = 10, 0.1  # on Windows

Content = bytes | Callable[[BinaryIO], None]  # a function writes it to the file, piece by piece


def write_file(path: Path, content: Content) -> None:
    """Write a temporary file, flush it to disk and rename it to `path`.

    Raises:
        OSError: the file cannot be written; an existing file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # "x" does not follow a symlink planted at this path
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _replace(temporary: Path, path: Path) -> None:
    """Rename a file; on Windows, try again for a while if another process, such as a virus scanner, has one open."""
    for _ in range(RENAMES - 1 if sys.platform == "win32" else 0):
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            time.sleep(RENAME_PAUSE_S)
    os.replace(temporary, path)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files and folders of a killed process; call this only while you hold the folder's lock."""
    for path in sorted(folder.rglob(f".*{PARTIAL_SUFFIX}")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a folder, which makes a rename in it durable; only POSIX systems can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
