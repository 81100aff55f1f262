"""Cached results as words: the stage, and the time since the last use."""

from __future__ import annotations

from pathlib import Path

from toolkit.storage.record import DamagedError, read_field


def stage_title(path: Path) -> str:
    """Return the stage whose result a record contains, or `corrupted`."""
    try:
        return str(read_field(path, "title"))
    except DamagedError:
        return "corrupted"


def age_text(age_s: float) -> str:
    """Return an age in its largest unit: `3 days ago`, `5 h ago`, `12 min ago`."""
    for unit, seconds in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= seconds:
            return f"{age_s / seconds:.0f} {unit} ago"
    return f"{age_s:.0f} s ago"
