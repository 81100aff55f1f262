"""The plugin that writes the report of a run after each row, so that an unfinished run can be read."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from toolkit.data.splits import Data
from toolkit.hooks.loading import from_module
from toolkit.hooks.specs import hookimpl
from toolkit.params import Params
from toolkit.recipe.read import PluginUse, Recipe, Stage
from toolkit.report import Report
from toolkit.report.collector import AnswersOf, Collector
from toolkit.report.details import DETAILS
from toolkit.report.table import as_markdown
from toolkit.storage.run_directory import REPORT, TABLE, RunDirectory

log = logging.getLogger("toolkit")


class ReportWriter:
    """Writes `report.json`, `report.md` and `details.json` after each row, and `report.html` at the end."""

    def __init__(self, answers_of: AnswersOf) -> None:
        self._answers_of = answers_of

    @hookimpl
    def on_start(self, recipe: Recipe, directory: Path) -> tuple[RunDirectory, Collector]:
        return RunDirectory(directory), Collector(len(recipe.stages), self._answers_of)

    @hookimpl
    def on_step(
        self, prepared: tuple[RunDirectory, Collector], stage: Stage, step: int, steps: int, loss: float
    ) -> None:
        prepared[1].add_step(stage.number, stage.name, step, steps, loss)

    @hookimpl
    def measure(self, prepared: tuple[RunDirectory, Collector], model: nn.Module, data: Data) -> None:
        prepared[1].add_model(model, data)

    @hookimpl
    def on_row(self, prepared: tuple[RunDirectory, Collector], report: Report) -> None:
        directory, collector = prepared
        write_rows(report, directory)
        directory.write(DETAILS, collector.details().model_dump_json(exclude_none=True) + "\n")

    @hookimpl
    def on_end(self, prepared: tuple[RunDirectory, Collector], report: Report) -> None:
        write_rows(report, prepared[0])  # times may have been taken again
        write_page(report)


def write_rows(report: Report, directory: RunDirectory) -> None:
    """Write the rows as JSON and as Markdown."""
    directory.write_json(REPORT, report.model_dump())
    directory.write(TABLE, as_markdown(report))


def write_page(report: Report) -> Path | None:
    """Write `report.html` into the run directory; if that fails, warn and return None.

    The models and numbers are complete at that point, so a chart is no reason for a run to fail.
    """
    from toolkit.report.page import PAGE, render

    assert report.directory is not None
    try:
        return RunDirectory(report.directory).write(PAGE, render(report))
    except Exception:
        log.warning("cannot write %s", PAGE, exc_info=True)
        return None


def report_writer(answers_of: AnswersOf) -> PluginUse:
    """Return the writer as a run-wide plugin without settings; `answers_of` as in `Collector`."""
    return PluginUse(from_module(ReportWriter(answers_of), "report", "the toolkit", "observer"), Params())
