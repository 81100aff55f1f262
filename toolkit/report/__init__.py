"""The report of a run: a row for the baseline and a row for each stage."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolkit.metrics.support.quality_format import measured_qualities
from toolkit.rows import Number, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from toolkit.report.details import Details

FORMAT: Literal[1] = 1


class Report(BaseModel):
    """The rows of a run, the baseline first, with its environment and metrics of quality.

    `report.json` has the same fields: `model_dump_json()` returns its content, and `Report.read(directory)` reads it.

    Attributes:
        format: version of the file format.
        name: name of the run.
        seed: seed of the run's random numbers.
        rows: rows, the baseline first.
        environment: hardware and library versions.
        quality: metrics of quality, the primary one first, with the better direction, `higher` or `lower`.
        starts: for each row the number of the row that its stage started from; the previous row by default.
        numbers: descriptions of the numbers that plugins measured, by name, as far as they declare them.
        directory: run directory with the curves, layers and samples of `details`; None for a report without one.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    format: Literal[1] = FORMAT
    name: str
    seed: int
    quality: dict[str, Literal["higher", "lower"]] = {"accuracy": "higher"}
    starts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()
    rows: Annotated[tuple[Row, ...], Field(strict=False, min_length=1)]
    environment: dict[str, Any]
    numbers: dict[str, Number] = {}
    directory: Path | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def read(cls, directory: str | Path) -> Report:
        """Read the report of a run directory.

        Raises:
            InputError: the directory or its report is missing, damaged, or of a newer format.
        """
        from toolkit.report.reader import read_report

        return read_report(directory)

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
        """Return the row of the stage with this name; a `KeyError` if there is none, or more than one."""
        numbers = [number for number, row in enumerate(self.rows) if row.stage == stage]
        if not numbers:
            raise KeyError(f"no stage '{stage}'; available: {', '.join(row.stage for row in self.rows)}")
        if len(numbers) > 1:
            choices = " or ".join(f"rows[{number}]" for number in numbers)
            raise KeyError(f"{len(numbers)} stages are named '{stage}'; use {choices}")
        return self.rows[numbers[0]]

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

        Charts of layers require the run directory.
        """
        from toolkit.report.charts import charts

        return {chart.name: chart.figure for chart in charts(self)}

    def _repr_html_(self) -> str:
        from toolkit.report.page import summary

        return summary(self)

    def __str__(self) -> str:
        from toolkit.report.table import as_text

        return as_text(self)
