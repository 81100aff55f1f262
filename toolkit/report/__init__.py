"""A run in numbers: one row for the baseline and one for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from toolkit.report.details import Details


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
