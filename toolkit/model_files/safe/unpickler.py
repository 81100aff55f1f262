"""torch's restricted unpickler, with a list of allowed classes for each file."""

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
    """Return what `torch.load` reads from a file with `weights_only`; imports and executes nothing that the file names.

    Args:
        file: a path, or an open file.
        allowed: pairs of a class or function and its name in the file.
        options: of `torch.load`.
    """
    with _allowing(allowed), warnings.catch_warnings(action="ignore"):  # about how the file was written
        return torch.load(file, weights_only=True, **options)


@contextmanager
def _allowing(allowed: Sequence[Any]) -> Iterator[None]:
    # The list belongs to the process. `torch.serialization.safe_globals` would remove what the program itself had
    # allowed, and two threads would allow each other's classes.
    with _lock:
        before = torch.serialization.get_safe_globals()
        torch.serialization.add_safe_globals(list(allowed))
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
