"""Entry points of installed distributions, whose metadata is read again only when a folder of `sys.path` changes."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, of everything that is installed now."""
    return _entry_points(group, tuple(sys.path), tuple(map(_state, sys.path)))


def _state(folder: str) -> tuple[int, int, int] | None:
    """Return what differs for another folder, and after a distribution was added or removed; None for none."""
    try:
        status = os.stat(folder or os.curdir)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=8)
def _entry_points(group: str, *_: object) -> tuple[EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=group))  # reads a file of every distribution: 10 ms
