"""What the rows of a report know of the validation after each epoch: lists whose keys begin with `validation_`."""

from __future__ import annotations

from toolkit.report import Report
from toolkit.rows import Row

PREFIX, LOSS = "validation_", "loss"
MAX_SERIES = 4  # of a chart


def validation_series(report: Report) -> dict[int, dict[str, list[float | None]]]:
    """Return for the number of each row the values after each epoch, by metric; None where there is no value."""
    return {number: series for number, row in enumerate(report.rows) if (series := _series(row))}


def _series(row: Row) -> dict[str, list[float | None]]:
    series: dict[str, list[float | None]] = {}
    for key, values in row.values.items():
        if key.startswith(PREFIX) and isinstance(values, list) and any(value is not None for value in values):
            series[key.removeprefix(PREFIX)] = values
    return dict(list(series.items())[:MAX_SERIES])
