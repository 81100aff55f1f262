"""Numbers in a report whose metric is not installed: a later version or a custom module measured them."""

from __future__ import annotations

from toolkit.metrics import all_quantities
from toolkit.report import Report

MAX_UNKNOWN = 20
RUN_VALUES = frozenset({"duration_s", "measuring_s", "reused", "training_loss"})
OF_QUALITY = ("", "_interval", "_change", "_change_interval", "_change_p")


def unknown_numbers(report: Report) -> list[str]:
    """Return the keys of at most `MAX_UNKNOWN` numbers that no metric describes, in the order of the rows.

    A key with a dot belongs to a plugin.
    """
    known = {
        *RUN_VALUES,
        *all_quantities(),
        *(f"{name}{suffix}" for name in _qualities(report) for suffix in OF_QUALITY),
    }
    keys = {key: None for row in report.rows for key in row.values if row.number(key) is not None}
    return [key for key in keys if key not in known and "." not in key][:MAX_UNKNOWN]


def _qualities(report: Report) -> set[str]:
    return {"accuracy", "loss", *report.quality}
