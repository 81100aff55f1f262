"""What a metric brings with it: how it is measured, what its numbers mean, and how they are shown and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from torch import nn

from toolkit.data.splits import Data
from toolkit.number_text import plain
from toolkit.rows import Row

if TYPE_CHECKING:
    from toolkit.metrics.quality import Answers

Progress: TypeAlias = Callable[[float, float], None]


@dataclass(frozen=True)
class Subject:
    """A model to be measured, and what a metric may use besides it.

    Attributes:
        model: in eval mode, on the data's device.
        data: the splits and the task.
        baseline: the first model that was measured, which may be the same.
        answers: the model's answers on the split that is reported, and `baseline_answers` the baseline's, None for the
            baseline itself.
        folder: the folder that the model is saved in.
        batch_sizes: samples per timed call, in ascending order.
        seconds_left: returns the seconds that remain of this row's share of the budget.
        session: what the metric's own session returned, open for all rows of a run.
        on_progress: called with `(done_s, total_s)` by metrics that take long.
    """

    model: nn.Module
    data: Data
    baseline: nn.Module
    answers: Answers
    baseline_answers: Answers | None
    folder: Path
    batch_sizes: Sequence[int]
    seconds_left: Callable[[], float]
    session: Any = None
    on_progress: Progress | None = None


@dataclass(frozen=True)
class Quantity:
    """One number of a metric, under its key in a row and in `report.json`.

    Attributes:
        key: with the unit in the name, such as `size_bytes`.
        text: formats a value for a reader, with its unit.
        explanation: one sentence on what it is, shown where a reader points at it.
        title: heading of its column; without one it has no column.
        dispensable: columns with higher values are dropped first from a narrow terminal; 0 is never dropped.
        minimum: lowest possible value, `maximum` the highest; None for no limit.
        positive: whether 0 is excluded.
        interval_key: where its interval is, `<key>_interval` by default.
        between_runs: relative difference to expect between two runs of one model on a machine in use; None for an exact
            count, which must be equal.
        by_batch_size: the value is a table of numbers by batch size.
    """

    key: str
    text: Callable[[float], str] = plain
    explanation: str = ""
    title: str = ""
    dispensable: int = 90
    minimum: float | None = None
    maximum: float | None = None
    positive: bool = False
    interval_key: str = ""
    between_runs: float | None = None
    by_batch_size: bool = False

    @property
    def label(self) -> str:
        """The key without the unit of bytes, which the formatted value has."""
        return self.key.removesuffix("_bytes")

    @property
    def interval(self) -> str:
        """The key of its interval."""
        return self.interval_key or f"{self.key}_interval"


@dataclass(frozen=True)
class Column:
    """A column of a report's table: `show` formats a row, given the baseline's row as well."""

    title: str
    show: Callable[[Row, Row], str]
    dispensable: int = 0
    explanation: str = ""
    place: int = 50


class TableContent(NamedTuple):
    """What the columns of a table depend on.

    `quality` has the metrics of quality with their directions; `detailed` asks for intervals in full.
    """

    rows: Sequence[Row]
    quality: Mapping[str, str]
    detailed: bool


@dataclass(frozen=True)
class Metric:
    """A metric: a module of `toolkit.metrics` has one as `METRIC`.

    Attributes:
        measure: returns values by key, and leaves the model unchanged.
        quantities: the values that need more than their key to be shown and compared.
        columns: returns the columns of a table; by default there is one for each quantity with a title.
        order: metrics with lower values are measured first.
        place: columns with lower values come first.
        session: opens what all rows of a run share, such as a process.
    """

    measure: Callable[[Subject], Mapping[str, Any]]
    quantities: tuple[Quantity, ...] = ()
    columns: Callable[[TableContent], Iterable[Column]] | None = None
    order: int = 50
    place: int = 50
    session: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)

    def columns_of(self, content: TableContent) -> list[Column]:
        """Return the columns that this metric adds to a table."""
        if self.columns is not None:
            return list(self.columns(content))
        return [column_of(quantity, self.place) for quantity in self.quantities if quantity.title]


def column_of(quantity: Quantity, place: int) -> Column:
    """Return a column that shows one number per row, empty where it was not measured."""

    def show(row: Row, _: Row) -> str:
        value = row.number(quantity.key)
        return "" if value is None else quantity.text(value)

    return Column(quantity.title, show, quantity.dispensable, quantity.explanation, place)
