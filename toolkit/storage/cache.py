"""Results of stages for other runs, in the user's cache directory, by what determines them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from toolkit.storage.files import write_file
from toolkit.storage.lock import locked

log = logging.getLogger("toolkit")

VARIABLE = "TOOLKIT_CACHE"
SUFFIX = ".record"


def cache_folder() -> Path:
    """Where results are kept: what TOOLKIT_CACHE says, or the user's cache directory."""
    given = os.environ.get(VARIABLE)
    return (Path(given) if given else platformdirs.user_cache_path("toolkit")) / "stages"


@dataclass(frozen=True)
class Entry:
    """One result in the cache."""

    path: Path
    size_bytes: int
    age_s: float


class Cache:
    """Looks results up and keeps them; where it cannot be written to, a run goes on without."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def path(self, key: str | None) -> Path | None:
        """Where the result of `key` is or would be; None without a cache, or a key."""
        return None if self._folder is None or key is None else self._folder / f"{key}{SUFFIX}"

    def computing(self, key: str | None, on_wait: Callable[[], None]) -> AbstractContextManager[object]:
        """Inside, no other run computes the result of `key`; one that does so already is waited for."""
        path = self.path(key)
        if path is None:
            return nullcontext()
        locks = path.parent / "locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("the cache %s is not used: %s", path.parent, error)
            self._folder = None
            return nullcontext()
        return locked(locks / f"{key}.lock", on_wait)

    def write(self, key: str | None, content: bytes) -> None:
        """Keep a result."""
        path = self.path(key)
        if path is not None:
            try:
                write_file(path, content)
            except OSError as error:
                log.warning("the result is not kept in the cache: %s", error)


def entries(folder: Path) -> Iterator[Entry]:
    """What lies in the cache, the newest first; a file is as old as its last use."""
    now = time.time()
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process trims
            continue
        found.append(Entry(path, status.st_size, max(0.0, now - status.st_mtime)))
    yield from sorted(found, key=lambda entry: entry.age_s)


def prune(folder: Path, largest_bytes: int) -> list[Entry]:
    """Remove the oldest results until the rest takes at most so many bytes; what was removed."""
    total, removed = 0, []
    for entry in entries(folder):
        total += entry.size_bytes
        if total > largest_bytes:
            entry.path.unlink(missing_ok=True)
            removed.append(entry)
    return removed


def note_use(path: Path) -> None:
    """Note that an entry was of use."""
    try:
        os.utime(path)
    except OSError:
        log.debug("%s cannot be touched", path)
