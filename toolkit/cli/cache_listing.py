"""What lies in the cache, in words."""

from __future__ import annotations

from pathlib import Path

from toolkit.storage.record import DamagedError, read_field


def what(path: Path) -> str:
    """The stage whose result a record is."""
    try:
        return str(read_field(path, "title"))
    except DamagedError:
        return "damaged"


def age_text(age_s: float) -> str:
    """An age in the largest unit that it has any of: `3 days`, `5 h`, `12 min`."""
    for unit, seconds in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= seconds:
            return f"{age_s / seconds:.0f} {unit} ago"
    return f"{age_s:.0f} s ago"
