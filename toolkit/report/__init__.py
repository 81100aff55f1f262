"""A run in numbers: one row for the baseline and one for each stage."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolkit.metrics.support.quality_format import measured_qualities
from toolkit.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from toolkit.report.details import Details

FORMAT: Literal[1] = 1


class Report(BaseModel):
    """All rows of a run, the baseline first, with what is needed to read them.

    It is what `report.json` holds: `model_dump_json` writes it, and `read_report` reads it from a run directory.

    Attributes:
        name: of the run.
        seed: of everything random in it.
        rows: row 0 is the baseline.
        environment: hardware and library versions.
        quality: the metrics of quality, the primary one first, and whether `higher` or `lower` is better.
        starts: for every row the number of the row that it started from; the row before where it is missing.
        directory: the run directory, if there is one; curves, layers and samples of `details` are in it.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    format: Literal[1] = FORMAT
    name: str
    seed: int
    quality: dict[str, Literal["higher", "lower"]] = {"accuracy": "higher"}
    starts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()
    rows: Annotated[tuple[Row, ...], Field(strict=False, min_length=1)]
    environment: dict[str, Any]
    directory: Path | None = Field(default=None, exclude=True, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self.model_dump() == other.model_dump()

    @property
    def baseline(self) -> Row:
        """Row 0."""
        return self.rows[0]

    @property
    def final(self) -> Row:
        """The last row, whose model is the run's artifact."""
        return self.rows[-1]

    @property
    def measured_qualities(self) -> list[str]:
        """The metrics of quality that were measured, the primary one first; the loss only if it is alone."""
        return measured_qualities(self.rows, self.quality)

    def row(self, stage: str) -> Row:
        """Return the row of the stage with this name."""
        for row in self.rows:
            if row.stage == stage:
                return row
        raise KeyError(f"no stage '{stage}'; available: {', '.join(row.stage for row in self.rows)}")

    def start(self, number: int) -> int:
        """Return the number of the row whose model stage `number` started from."""
        before = max(number - 1, 0)
        return min(self.starts[number], before) if number < len(self.starts) else before

    @cached_property
    def details(self) -> Details | None:
        """The content of `details.json` in the run directory, None without one; an `InputError` if it is damaged."""
        from toolkit.report.reader import read_details

        return None if self.directory is None else read_details(self.directory)

    def plot(self) -> dict[str, Figure]:
        """Return the charts by name, as matplotlib figures: stages, quality against size, layers, learning curves.

        Without a run directory those are missing that are drawn from its files.
        """
        from toolkit.report.charts import charts

        return {chart.name: chart.figure for chart in charts(self)}

    def _repr_html_(self) -> str:
        from toolkit.report.page import summary

        return summary(self)

    def __str__(self) -> str:
        from toolkit.report.table import as_text

        return as_text(self)
