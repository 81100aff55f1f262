"""Size of the files that are needed to run a model: tensors and skeleton, or the packed file."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.metrics.support.metric import EXACT, Bounds, Column, Metric, Quantity, StageBars, Subject, TableContent
from toolkit.model_files import files_of
from toolkit.number_text import bytes_text
from toolkit.rows import Row

KEY = "size_bytes"
PLACE = 20


def size_bytes(subject: Subject) -> dict[str, int]:
    """Return the total size of the model's files, in bytes."""
    return {KEY: sum(path.stat().st_size for path in files_of(subject.folder))}


def _columns(_: TableContent) -> Iterable[Column]:
    yield Column("size", _size, explanation=SIZE.hint, place=PLACE)
    yield Column("smaller", _smaller, explanation="size of the baseline divided by this size", place=PLACE)


def _size(row: Row, _: Row) -> str:
    size = row.number(KEY)
    return "" if size is None else bytes_text(size)


def _smaller(row: Row, baseline: Row) -> str:
    size, before = row.number(KEY), baseline.number(KEY)
    return "" if not size or not before else f"{before / size:.1f}×"


SIZE = Quantity(
    KEY,
    bytes_text,
    "size of all files that are needed to run the model",
    unit="bytes",
    better="lower",
    bounds=Bounds(0, 1e18, exclusive=True),  # charts have no axis for anything larger
    comparison=EXACT,
    bars=StageBars("bytes", "Size", "size of the file", bytes_text),
)
METRIC = Metric(size_bytes, (SIZE,), _columns, order=0, place=PLACE)
