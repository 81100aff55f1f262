"""The command that exports a finished run to a runtime."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--runtime", metavar="NAME", required=True, help="Installed runtime, as in `toolkit techniques`.")
@click.option("--stage", metavar="NAME", help="Stage: NAME, NUMBER-NAME or baseline.", show_default="the last stage")
@click.option("--data", metavar="SOURCE", help="Data source.", show_default="the run's")
@click.option("--task", metavar="SOURCE", help="Task that evaluates the data.", show_default="the run's")
@click.option("--allow", multiple=True, metavar="SOURCE", help="Class, file or package in the model, e.g. nets.py:Net.")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), default=5.0, help="Seconds for the timing.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Setting of the runtime, e.g. opset=22.")
def export(
    run: Path,
    runtime: str,
    stage: str | None,
    data: str | None,
    task: str | None,
    allow: tuple[str, ...],
    budget: float,
    settings: tuple[str, ...],
) -> None:
    """Write a stage of RUN as files of a runtime and compare them with the model.

    The files go to exports/NAME in the run directory, with a README.md that shows how to run them. A file that does
    not give the model's answers is removed. The row of the file goes into report.json, report.md and report.html.
    """
    import shutil

    from toolkit.recipe.overrides import parse_settings
    from toolkit.report.page import PAGE
    from toolkit.report.table import as_text
    from toolkit.runner.export_run import export_run
    from toolkit.storage.run_directory import EXPORTS

    params = parse_settings(settings)
    report = export_run(run, runtime, stage, params=params, data=data, task=task, allow=allow, budget_s=budget)
    click.echo(as_text(report, shutil.get_terminal_size().columns))
    click.echo(f"\nThe files are in {run / EXPORTS / runtime}, their row in {run / PAGE}")
