"""Description of a metric: how to measure it, and how to show and compare its numbers."""

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
from toolkit.tasks.task import Direction

if TYPE_CHECKING:
    from toolkit.metrics.quality import Answers

Progress: TypeAlias = Callable[[float, float], None]


@dataclass(frozen=True)
class Subject:
    """A model to be measured, with everything that a metric may use in addition.

    Attributes:
        model: in eval mode, on the data's device.
        data: the splits and the task.
        baseline: the first model that was measured, which may be the same.
        answers: the model's answers on the split that is reported, and `baseline_answers` the baseline's, None for the
            baseline itself.
        folder: the folder that the model is saved in.
        batch_sizes: samples per timed call, in ascending order.
        seconds_left: returns the seconds that remain of this row's share of the budget.
        session: result of the metric's `session`, which is open for all rows of a run.
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


class Bounds(NamedTuple):
    """The values that a number may have; None for no limit. `exclusive` excludes the minimum itself."""

    minimum: float | None = None
    maximum: float | None = None
    exclusive: bool = False


ANY, COUNT, POSITIVE, FRACTION = Bounds(), Bounds(0), Bounds(0, exclusive=True), Bounds(0, 1)


class Comparison(NamedTuple):
    """When a number differs between two runs: an `exact` one as soon as it is not equal, any other beyond its interval.

    `between_runs` is a relative difference that is expected between two runs of the same model, on a machine that does
    other work as well; the interval of a single run does not include it.
    """

    exact: bool = False
    between_runs: float = 0.0


EXACT, BY_INTERVAL = Comparison(exact=True), Comparison()


class StageBars(NamedTuple):
    """A chart with a bar for each stage: its name, its title, the label of its axis, and the format of the ticks."""

    name: str
    title: str
    axis: str
    tick: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True)
class Quantity:
    """One number of a metric, under its key in a row and in `report.json`.

    Attributes:
        key: name of the number with its unit, such as `size_bytes`.
        text: formats a value with all its significant digits and its unit.
        explanation: noun phrase, shown when a reader points at the heading of the column.
        unit: unit of the value, empty for a plain number.
        better: whether `higher` or `lower` values are better; None if neither is.
        title: heading of the column; empty for a number without a column.
        cell: formats a value for the column; `text` by default.
        dispensable: columns with higher values are the first to be dropped on a narrow terminal; 0 is never dropped,
            and 1 to 9 continue in another table.
        bounds: possible values; a report with other values is not read.
        comparison: how `toolkit diff` compares two values; None if it does not.
        interval_key: key of the 95 % interval; `<key>_interval` by default.
        by_batch_size: whether the value is a table of numbers by batch size.
        bars: chart of the number after each stage; None for no chart.
    """

    key: str
    text: Callable[[float], str] = plain
    explanation: str = ""
    unit: str = ""
    better: Direction | None = None
    title: str = ""
    cell: Callable[[float], str] | None = None
    dispensable: int = 90
    bounds: Bounds = ANY
    comparison: Comparison | None = BY_INTERVAL
    interval_key: str = ""
    by_batch_size: bool = False
    bars: StageBars | None = None

    @property
    def label(self) -> str:
        """Name in a comparison: the key, for counts of bytes without the unit, which their text has."""
        return self.key.removesuffix("_bytes") if self.comparison == EXACT else self.key

    @property
    def interval(self) -> str:
        """Key of the interval."""
        return self.interval_key or f"{self.key}_interval"

    @property
    def hint(self) -> str:
        """The explanation with the unit and the better direction: `size of all files (bytes; lower is better)`."""
        direction = self.better and f"{self.better} is better"
        details = "; ".join(filter(None, [self.unit, direction]))
        return f"{self.explanation} ({details})" if details else self.explanation


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
        rehearsed: whether the rehearsal before a long training measures it, too; False for a metric that takes seconds.
    """

    measure: Callable[[Subject], Mapping[str, Any]]
    quantities: tuple[Quantity, ...] = ()
    columns: Callable[[TableContent], Iterable[Column]] | None = None
    order: int = 50
    place: int = 50
    session: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    rehearsed: bool = True

    def columns_of(self, content: TableContent) -> list[Column]:
        """Return the columns that this metric adds to a table."""
        if self.columns is not None:
            return list(self.columns(content))
        return [column_of(quantity, self.place) for quantity in self.quantities if quantity.title]


def column_of(quantity: Quantity, place: int) -> Column:
    """Return a column that shows one number per row, empty where it was not measured."""

    def show(row: Row, _: Row) -> str:
        value = row.number(quantity.key)
        return "" if value is None else (quantity.cell or quantity.text)(value)

    return Column(quantity.title, show, quantity.dispensable, quantity.hint, place)
