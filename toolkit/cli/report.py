"""Commands that show and compare the results of runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Show the results of the run directory RUN, and rewrite its report.md and report.html."""
    from toolkit.report.page import PAGE, render
    from toolkit.report.reader import read_report
    from toolkit.report.table import as_markdown, as_text
    from toolkit.storage.run_directory import TABLE, RunDirectory

    results = read_report(run)
    click.echo(as_text(results, shutil.get_terminal_size().columns))
    RunDirectory(run).write(TABLE, as_markdown(results))
    click.echo(f"\nPage: {RunDirectory(run).write(PAGE, render(results))}")


@click.command()
@click.argument("first", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Page to write as well.")
def diff(first: Path, second: Path, html: Path | None) -> None:
    """Show the settings in which two runs differ, and the numbers that differ beyond their intervals."""
    from toolkit.report.compare import compare
    from toolkit.report.compare_text import as_page, as_text
    from toolkit.storage.run_directory import RunDirectory

    comparison = compare(first, second)
    click.echo(as_text(comparison))
    if html is not None:
        click.echo(f"\nPage: {RunDirectory(html.parent).write(html.name, as_page(comparison))}")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--data", metavar="SOURCE", help="Data source.", show_default="that of the run")
@click.option("--task", metavar="SOURCE", help="Task of the data, e.g. tasks.py:Task.", show_default="that of the run")
@click.option("--allow", multiple=True, metavar="SOURCE", help="Class, file or package to load; repeatable.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Batch size.", show_default="that of the run")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Time for the latency, in s.",
)
@click.option("--trust", is_flag=True, help="Open exported files that can hold native code.")
def evaluate(
    directory: Path,
    data: str | None,
    task: str | None,
    allow: tuple[str, ...],
    batch_size: int | None,
    budget: float,
    trust: bool,
) -> None:
    """Measure accuracy, size and latency of the model in DIRECTORY.

    DIRECTORY is a run directory, one of its stages or exports, or a packed file.
    """
    from toolkit.report.table import as_text
    from toolkit.runner.evaluation import evaluate as evaluate_model

    report = evaluate_model(
        directory, data, task=task, allow=allow, batch_size=batch_size, budget_s=budget, trust=trust
    )
    click.echo(as_text(report, shutil.get_terminal_size().columns))
