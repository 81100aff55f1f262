"""torch's restricted unpickler, with a list of its own for each file."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import torch

_lock = threading.Lock()


def load(file: str | os.PathLike[str] | IO[bytes], allowed: Sequence[Any] = (), **options: Any) -> Any:
    """What `torch.load` finds in a file with `weights_only`; nothing that the file names is imported or executed.

    Args:
        file: a path, or an open file.
        allowed: pairs of a class or function and the name that it has in the file.
        options: of `torch.load`.
    """
    with _allowing(allowed), warnings.catch_warnings(action="ignore"):  # about how the file was written
        return torch.load(file, weights_only=True, **options)


@contextmanager
def _allowing(allowed: Sequence[Any]) -> Iterator[None]:
    # The list is the process's: `safe_globals` would take away what the program had allowed itself, and two threads
    # would allow each other's.
    with _lock:
        before = torch.serialization.get_safe_globals()
        torch.serialization.add_safe_globals(list(allowed))
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
