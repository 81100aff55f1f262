"""The command that compares runtimes on a finished run."""

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
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), default=20.0, help="Seconds for the timing.")
def bench(
    run: Path,
    runtimes: tuple[str, ...],
    stage: str | None,
    data: str | None,
    task: str | None,
    allow: tuple[str, ...],
    budget: float,
) -> None:
    """Compare the runtimes on a stage of RUN, and name the fastest on this machine.

    The stage is exported to each runtime and compared with the model; then all files are timed in turn. No file is
    kept: export the one that you choose with `toolkit export`.
    """
    from toolkit.runner.bench import bench_run

    def tell(what: str) -> None:
        click.echo(f"{what} …", err=True)

    result = bench_run(run, runtimes, stage, data=data, task=task, allow=allow, budget_s=budget, on_progress=tell)
    click.echo(result.table() + "\n")
    for name, refusal in result.refusals.items():
        click.echo(f"{name} is left out: {refusal}")
    for sentence in result.recommendation():
        click.echo(sentence)
