"""The plugin that writes a run's report, anew after every row, so that an unfinished run can be read."""

from __future__ import annotations

from pathlib import Path

from toolkit.hookspecs import hookimpl
from toolkit.params import Params
from toolkit.recipe import Step
from toolkit.report import Report
from toolkit.report.table import as_markdown
from toolkit.runs import REPORT, TABLE, RunDirectory
from toolkit.techniques import from_module


class ReportWriter:
    """Writes `report.json` and `report.md`."""

    @hookimpl
    def on_start(self, directory: Path) -> RunDirectory:
        return RunDirectory(directory)

    @hookimpl
    def on_row(self, prepared: RunDirectory, report: Report) -> None:
        prepared.write_json(REPORT, report.to_json())
        prepared.write(TABLE, as_markdown(report))


def report_writer() -> Step:
    """The writer as a run-wide plugin with its settings, of which it has none."""
    return Step(from_module(ReportWriter(), "report", "the toolkit", "observer"), Params())
