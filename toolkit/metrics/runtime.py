"""How the file of a runtime relates to its model, and to the baseline's file of the same runtime.

Exports measure these numbers themselves, because they need the opened file; a model that PyTorch runs has none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from toolkit.metrics.support.metric import (
    COUNT,
    FRACTION,
    POSITIVE,
    Column,
    Comparison,
    Metric,
    Quantity,
    TableContent,
)
from toolkit.number_text import percent, printable
from toolkit.rows import Row

PLACE = 75
RATIO = "runtime_ratio"
TIMING_NOISE = 0.1  # of the ratio, between two runs on a machine in use


def _times(ratio: float) -> str:
    return f"×{ratio:.2f}"


def _columns(content: TableContent) -> Iterable[Column]:
    if not any(row.runtime for row in content.rows):
        return
    yield Column("runs in", _runs_in, 95, "runtime that ran the model for this row", PLACE)
    if content.detailed:
        sizes = dict.fromkeys(size for row in content.rows for size in row.get(RATIO) or {})
        for size in sizes:
            yield Column(f"of float @{printable(size)}", _ratio_at(size), 99, QUANTITIES[0].explanation, PLACE)


def _runs_in(row: Row, _: Row) -> str:
    return printable(row.runtime or "PyTorch")


def _ratio_at(size: str) -> Callable[[Row, Row], str]:
    def show(row: Row, _: Row) -> str:
        ratio, interval = row.number(RATIO, size), row.interval(f"{RATIO}_interval", size)
        if ratio is None:
            return ""
        return _times(ratio) + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")

    return show


QUANTITIES = (
    Quantity(
        RATIO,
        _times,
        "time of a call divided by that of the baseline's file in the same runtime",
        better="lower",
        bounds=POSITIVE,
        comparison=Comparison(between_runs=TIMING_NOISE),
        by_batch_size=True,
    ),
    Quantity(
        "output_error",
        lambda error: f"{error:.2g}",
        "root mean square difference between the outputs of file and model, relative to the model's outputs",
        better="lower",
        bounds=COUNT,
        comparison=None,  # where a layer rounds to integers, a last bit decides
    ),
    Quantity(
        "file_agreement",
        percent,
        "fraction of samples for which file and model give the same answer",
        better="higher",
        bounds=FRACTION,
        comparison=Comparison(between_runs=0.01),
    ),
)
METRIC = Metric(lambda _: {}, QUANTITIES, _columns, order=90, place=PLACE)
