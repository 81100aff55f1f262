"""A lock that dies with its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock of the file `path` inside; whether it could be had.

    Args:
        path: made if need be, and left there: who removes it may remove another one's.
        on_wait: called once before waiting for another process; without it nobody waits.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if on_wait is None:
            yield False
            return
        on_wait()
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()
