"""The argument `samples` of the built-in data sources."""

from __future__ import annotations

from typing import Any

from toolkit.errors import InputError


def require_count(title: str, samples: Any) -> None:
    """Raise an `InputError` unless `samples` is None or a whole number of at least 1."""
    if samples is None:
        return
    if not isinstance(samples, int) or isinstance(samples, bool):
        raise InputError(f"{title}: samples must be a whole number, found {samples!r}")
    if samples < 1:
        raise InputError(f"{title}: samples must be at least 1, found {samples}")
