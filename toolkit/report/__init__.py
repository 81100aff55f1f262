"""A run in numbers: one row for the baseline and one for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Note:
    """Something for the report that is not a number: a text, a small table (a list of rows by column), or both."""

    text: str = ""
    table: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """The note as `{"text": …, "table": […]}`."""
        return {"text": self.text, "table": [dict(row) for row in self.table]}


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

    def to_json(self) -> dict[str, Any]:
        """What `report.json` holds."""
        rows = [row.to_json() for row in self.rows]
        about = {"name": self.name, "seed": self.seed, "quality": dict(self.quality)}
        return {**about, "rows": rows, "environment": dict(self.environment)}

    def __str__(self) -> str:
        from toolkit.report.table import as_text

        return as_text(self)
