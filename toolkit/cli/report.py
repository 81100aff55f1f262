"""Commands that show what a run left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Show the run in the directory RUN again, and write its report.md and report.html anew."""
    from toolkit.report.page import PAGE, render
    from toolkit.report.reader import read_report
    from toolkit.report.table import as_markdown, as_text
    from toolkit.storage.run_directory import TABLE, RunDirectory

    found = read_report(run)
    click.echo(as_text(found, shutil.get_terminal_size().columns))
    RunDirectory(run).write(TABLE, as_markdown(found))
    click.echo(f"\nThe page is {RunDirectory(run).write(PAGE, render(found))}")


@click.command()
@click.argument("first", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page.")
def diff(first: Path, second: Path, html: Path | None) -> None:
    """Say which settings of two runs differ, and which numbers moved beyond their intervals."""
    from toolkit.report.compare import compare
    from toolkit.report.compare_text import as_page, as_text
    from toolkit.storage.run_directory import RunDirectory

    comparison = compare(first, second)
    click.echo(as_text(comparison))
    if html is not None:
        click.echo(f"\nThe page is {RunDirectory(html.parent).write(html.name, as_page(comparison))}")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--data", metavar="SOURCE", help="Another data source; by default that of the run.")
@click.option("--task", metavar="SOURCE", help="What the data is measured by; to be given where it is your own.")
@click.option("--allow", multiple=True, metavar="SOURCE", help="A class of your own in the model: nets.py:Net.")
@click.option("--batch-size", type=click.IntRange(min=1), help="By default that of the run.")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), default=5.0, help="Seconds for the timing.")
def evaluate(
    directory: Path, data: str | None, task: str | None, allow: tuple[str, ...], batch_size: int | None, budget: float
) -> None:
    """Measure the model in DIRECTORY, a run directory, a stage or a packed file: accuracy, size and latency."""
    from toolkit.report.table import as_text
    from toolkit.runner.evaluation import evaluate as evaluate_model

    report = evaluate_model(directory, data, task=task, allow=allow, batch_size=batch_size, budget_s=budget)
    click.echo(as_text(report))
