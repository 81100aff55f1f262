"""Atomic writes: a crash leaves the old file or the new one, never a partial file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PARTIAL_SUFFIX = ".part"


def write_file(path: Path, content: bytes) -> None:
    """Write a temporary file, flush it to disk and rename it to `path`.

    Raises:
        OSError: the file cannot be written; an existing file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # "x" does not follow a symlink planted at this path
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


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
