"""The report as one page of HTML, without scripts, network access or other files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from toolkit.number_text import bytes_text, plain, printable, seconds
from toolkit.report import Report
from toolkit.report.column_meanings import COLUMN_MEANINGS
from toolkit.report.details import Details
from toolkit.report.layer_table import layer_table
from toolkit.report.notes import notes_of, plugin_numbers, warnings_of
from toolkit.report.table import REUSED_MEANS, cells
from toolkit.report.verdicts import stage_verdicts, verdict
from toolkit.storage.run_directory import RECIPE

PAGE = "report.html"


def render(report: Report) -> str:
    """Return the page of a report; curves, layers, samples and recipe come from its run directory, if it has one."""
    from toolkit.report.charts import charts
    from toolkit.report.charts.svg import inline_svg

    details = report.details or Details()
    layers = layer_table(details.layers[0], details.layers[-1]) if details.layers else []
    return _template("report.html.j2").render(
        **_summary(report),
        charts=charts(report),
        svg=lambda chart: Markup(inline_svg(chart)),  # the XML writer has escaped its texts
        layers=layers,
        lost=details.lost,
        notes=notes_of(report),
        warnings=warnings_of(report),
        meanings=COLUMN_MEANINGS,
        numbers=plugin_numbers(report),
        environment=_environment_table(report.environment),
        recipe=_recipe(report),
        duration=seconds(_total(report, "duration_s")),
        reused=REUSED_MEANS if any(row.get("reused") for row in report.rows) else None,
        measuring=seconds(_total(report, "measuring_s")) if _total(report, "measuring_s") else None,
    )


def summary(report: Report) -> str:
    """Return the verdict and the table as HTML for a notebook."""
    return _template("summary.html.j2").render(**_summary(report))


def render_template(name: str, **content: Any) -> str:
    """Return a page of another template in the same style."""
    return _template(name).render(**content)


def _summary(report: Report) -> dict[str, Any]:
    headings, lines = cells(report)
    return {
        "report": report,
        "verdict": verdict(report),
        "stage_verdicts": stage_verdicts(report),
        "headings": headings,
        "lines": lines,
    }


def _total(report: Report, name: str) -> float:
    return sum(row.get(name) or 0.0 for row in report.rows)


def _environment_table(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.removesuffix("_bytes"), bytes_text(value) if name.endswith("_bytes") else plain(value))
        for name, value in environment.items()
    ]


def _recipe(report: Report) -> str | None:
    path = report.directory / RECIPE if report.directory else Path()
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError):
        return None  # the page is complete without it


def _shown(value: Any) -> Any:
    """Return a text for the page: printable, with a number and its ± on one line."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable(value).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _template(name: str) -> jinja2.Template:
    return _templates().get_template(name)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.PackageLoader("toolkit.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    environment.tests["wordy"] = lambda cell: bool(cell) and not re.match(r"[−+±×-]?\d", cell)
    return environment
