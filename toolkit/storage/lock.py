"""File locks, which the operating system releases when the process ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

TIMEOUT_S = 0.2


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock on `path`; yield whether it was acquired.

    Args:
        path: lock file; it is created if missing and never removed, because another process may hold it by then.
        on_wait: called repeatedly while another process holds the lock; it may raise to stop waiting. None to give up
            at once.
    """
    lock = FileLock(path)
    while not _try_acquire(lock):
        if on_wait is None:
            yield False
            return
        on_wait()
    try:
        yield True
    finally:
        lock.release()


def _try_acquire(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=TIMEOUT_S)
    except Timeout:
        return False
    return True
