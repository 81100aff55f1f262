"""The command that exports a finished run to runtimes."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Runtime; repeatable.", show_default="all")
@click.option("--stage", metavar="NAME", help="Stage: NAME, NUMBER-NAME or baseline.", show_default="the last stage")
@click.option("--data", metavar="SOURCE", help="Data source.", show_default="the run's")
@click.option("--task", metavar="SOURCE", help="Task that evaluates the data.", show_default="the run's")
@click.option("--allow", multiple=True, metavar="SOURCE", help="Class, file or package in the model, e.g. nets.py:Net.")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), default=5.0, help="Seconds for the timing.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Setting; of several runtimes RUNTIME.KEY=VALUE."
)
def export(
    run: Path,
    runtimes: tuple[str, ...],
    stage: str | None,
    data: str | None,
    task: str | None,
    allow: tuple[str, ...],
    budget: float,
    settings: tuple[str, ...],
) -> None:
    """Write a stage of RUN as files of runtimes and compare them with the model.

    The files go to exports/NAME in the run directory, with a README.md that shows how to run them. A file that does
    not give the model's answers is removed. The row of each file goes into report.json, report.md and report.html.
    Without --runtime, or with --runtime all, the runtimes that cannot export the model are left out.
    """
    import shutil

    from toolkit.recipe.overrides import parse_settings
    from toolkit.report.page import PAGE
    from toolkit.report.table import as_text
    from toolkit.runner.export_attempt import Request
    from toolkit.runner.export_rows import raise_together
    from toolkit.runner.export_run import export_run
    from toolkit.runner.exporting import EXPORTING, VERIFYING
    from toolkit.runner.runtimes import chosen_runtimes, split_refusals
    from toolkit.storage.run_directory import EXPORTS

    def tell(request: Request, activity: str) -> None:
        of = {EXPORTING: f" to {request.name}", VERIFYING: f" the file of {request.name}"}
        click.echo(f"{activity}{of.get(activity, '')} …", err=True)

    names, takes_what_works = chosen_runtimes(runtimes)
    values = parse_settings(settings)
    done = export_run(
        run, names, stage, settings=values, data=data, task=task, allow=allow, budget_s=budget, on_phase=tell
    )
    click.echo(as_text(done.report, shutil.get_terminal_size().columns) + "\n")
    for name in done.names:
        click.echo(f"The files are in {run / EXPORTS / name}, their row in {run / PAGE}")
    refusals, failures = split_refusals(done.errors, takes_what_works)
    for name, refusal in refusals.items():
        click.echo(f"{name} is left out: {refusal}")
    raise_together(failures)
