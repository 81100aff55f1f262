"""The cache of stage results in the user's cache directory: runs reuse each other's results."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from toolkit.data.cache_folder import cache_folder
from toolkit.storage.files import Content, write_file
from toolkit.storage.lock import locked

log = logging.getLogger("toolkit")

SUFFIX = ".record"


def stages_folder() -> Path:
    """Return the folder of all cached results."""
    return cache_folder() / "stages"


@dataclass(frozen=True)
class Entry:
    """One result in the cache."""

    path: Path
    size_bytes: int
    age_s: float


class Cache:
    """Stage results on disk, one file per key. If the folder cannot be written, the run continues without a cache.

    Args:
        folder: where to store results; None turns the cache off.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def path(self, key: str | None) -> Path | None:
        """Return the path of the result for `key`, whether or not it exists; None if there is no cache or no key."""
        return None if self._folder is None or key is None else self._folder / f"{key}{SUFFIX}"

    def missing(self, keys: Iterable[str | None]) -> set[int]:
        """Return the positions of the keys that have no result in the cache."""
        paths = map(self.path, keys)
        return {number for number, path in enumerate(paths) if path is None or not path.is_file()}

    def computing(self, key: str | None, on_wait: Callable[[], None]) -> AbstractContextManager[object]:
        """Keep other runs from computing the result for `key`; wait first if one of them already does."""
        path = self.path(key)
        if path is None:
            return nullcontext()
        lock_folder = path.parent / "locks"
        try:
            lock_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("cannot write the cache %s (%s); continuing without it", path.parent, error)
            self._folder = None
            return nullcontext()
        return locked(lock_folder / f"{key}.lock", on_wait)

    def write(self, key: str | None, content: Content) -> None:
        """Store a result; if that fails, log a warning and continue."""
        path = self.path(key)
        if path is not None:
            try:
                write_file(path, content)
            except OSError as error:
                log.warning("cannot store this result in the cache: %s", error)


def entries(folder: Path) -> Iterator[Entry]:
    """Yield the results in the cache, most recently used first."""
    now = time.time()
    results = []
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process is pruning the cache
            continue
        results.append(Entry(path, status.st_size, max(0.0, now - status.st_mtime)))
    yield from sorted(results, key=lambda entry: entry.age_s)


def prune(folder: Path, max_bytes: int) -> list[Entry]:
    """Remove the least recently used results until the rest fit into `max_bytes`; return the removed entries."""
    total_bytes, removed = 0, []
    for entry in entries(folder):
        total_bytes += entry.size_bytes
        if total_bytes > max_bytes:
            entry.path.unlink(missing_ok=True)
            removed.append(entry)
    return removed


def mark_used(path: Path) -> None:
    """Set the modification time of an entry to now, so that `prune` removes it last."""
    try:
        os.utime(path)
    except OSError:
        log.debug("cannot set the modification time of %s", path)
