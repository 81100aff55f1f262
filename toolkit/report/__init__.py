"""A run in numbers: one row for the baseline and one for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from toolkit.report.details import Details


@dataclass(frozen=True)
class Plot:
    """How the table of a note is drawn on the page: `y` over `x`, a line for each value of `series`.

    All three are names of columns. Rows in which `x` or `y` is no number are not drawn; without `series` there is one
    line. A line joins its rows in the order of the table.
    """

    x: str
    y: str
    series: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return (self.x, self.y) if self.series is None else (self.x, self.y, self.series)


@dataclass(frozen=True)
class Note:
    """Something for the report that is not a number: a text, a small table (a list of rows by column), or both.

    With a `plot` the page draws the table as lines, and shows the table beside them; elsewhere it is a table.
    """

    text: str = ""
    table: Sequence[Mapping[str, Any]] = ()
    plot: Plot | None = None

    def to_json(self) -> dict[str, Any]:
        """The note as `{"text": …, "table": […]}`, with `"plot": {"x": …, "y": …, "series": …}` if it has one."""
        plot = {} if self.plot is None else {"plot": asdict(self.plot)}
        return {"text": self.text, "table": [dict(row) for row in self.table], **plot}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Note:
        """The note that `to_json` made `content` of."""
        plot = content.get("plot")
        return cls(content["text"], content["table"], None if plot is None else Plot(**plot))


@dataclass(frozen=True)
class Row:
    """What was measured of one model: `row["accuracy"]`, `row["pruning.sparsity"]`; `stage` is the stage's name."""

    stage: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a metric, or `default` where it was not measured."""
        return self.values.get(name, default)

    @property
    def notes(self) -> dict[str, Note]:
        """The values that are notes, by name."""
        return {name: value for name, value in self.values.items() if isinstance(value, Note)}

    def to_json(self) -> dict[str, Any]:
        """`{"stage": …, name: value, …}`, ready for JSON."""
        plain = {key: value.to_json() if isinstance(value, Note) else value for key, value in self.values.items()}
        return {"stage": self.stage, **plain}


@dataclass(frozen=True)
class Report:
    """All rows of a run, the baseline first, with what is needed to read them."""

    name: str
    seed: int
    rows: tuple[Row, ...]
    environment: Mapping[str, Any]
    quality: Mapping[str, str] = field(default_factory=lambda: {"accuracy": "higher"})
    """The metrics of quality, the first one foremost, and whether `higher` or `lower` is better."""
    starts: tuple[int, ...] = ()
    """For every row the number of the row that it started from; where it is not said, the row before."""
    directory: Path | None = field(default=None, compare=False, repr=False)
    """The run directory, if there is one: the curves, layers and samples of `details` lie in it."""

    @property
    def baseline(self) -> Row:
        """Row 0."""
        return self.rows[0]

    @property
    def final(self) -> Row:
        """The last row, whose model is the run's artifact."""
        return self.rows[-1]

    def row(self, stage: str) -> Row:
        """The row of the stage with this name."""
        for row in self.rows:
            if row.stage == stage:
                return row
        raise KeyError(f"there is no stage '{stage}' among {', '.join(row.stage for row in self.rows)}")

    def start(self, number: int) -> int:
        """The number of the row whose model stage `number` started from."""
        return self.starts[number] if number < len(self.starts) else max(number - 1, 0)

    @cached_property
    def details(self) -> Details | None:
        """What `details.json` of the run directory holds, None without one; an `InputError` if it is damaged."""
        from toolkit.report.reader import read_details

        return None if self.directory is None else read_details(self.directory)

    def plot(self) -> dict[str, Figure]:
        """The charts by name, as matplotlib figures: stages, quality against size, layers, learning curves.

        Without a run directory those are left out that only its files can tell.
        """
        from toolkit.report.charts import charts

        return {chart.name: chart.figure for chart in charts(self)}

    def to_json(self) -> dict[str, Any]:
        """What `report.json` holds."""
        rows = [row.to_json() for row in self.rows]
        starts = [self.start(number) for number in range(len(self.rows))]
        about = {"name": self.name, "seed": self.seed, "quality": dict(self.quality), "starts": starts}
        return {**about, "rows": rows, "environment": dict(self.environment)}

    @classmethod
    def from_json(cls, content: Any) -> Report:
        """The report that `to_json` made `content` of; an `InputError` says in one sentence what is wrong with it."""
        from toolkit.report.reader import parse_report

        return parse_report(content, "the report")

    def _repr_html_(self) -> str:
        from toolkit.report.page import summary

        return summary(self)

    def __str__(self) -> str:
        from toolkit.report.table import as_text

        return as_text(self)
