"""The rule that one process does one run at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.errors import InputError

_RUN = threading.RLock()  # reentrant: a plugin may rehearse a recipe in its own thread


@contextmanager
def only_run() -> Iterator[None]:
    """Hold this process's only run inside; raise an `InputError` if a different thread does."""
    if not _RUN.acquire(blocking=False):
        raise InputError(
            "this process is already running a recipe in a different thread, and both would draw from torch's random "
            "generator; use a separate process for each run"
        )
    try:
        yield
    finally:
        _RUN.release()
