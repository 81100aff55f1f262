"""A lock that dies with its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

PATIENCE_S = 0.2


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock of the file `path` inside; whether it could be had.

    Args:
        path: made if need be, and left there: who removes it may remove another one's.
        on_wait: called now and then while another process has it, and may raise; without it nobody waits.
    """
    lock = FileLock(path)
    while not _acquired(lock):
        if on_wait is None:
            yield False
            return
        on_wait()
    try:
        yield True
    finally:
        lock.release()


def _acquired(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        return False
    return True
