"""Files that are either there or not, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

PART = ".part"


def write_file(path: Path, content: bytes) -> None:
    """Write a file beside its place, flush it to disk and rename it; an `OSError` leaves what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        beside.unlink(missing_ok=True)
        with open(beside, "xb") as file:  # exclusively, which follows no link that somebody has put there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _flush_names(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove what a process that was killed had begun to write; call it under the folder's lock only."""
    for path in folder.rglob(f".*{PART}"):
        path.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    """A rename is on disk once its folder is; not every system can flush folders."""
    if os.name == "posix":
        names = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(names)
        finally:
            os.close(names)
