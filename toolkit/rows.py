"""One row of a report: what was measured of one model, with the notes and plots of the techniques that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


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
