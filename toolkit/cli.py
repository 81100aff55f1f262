"""The command `toolkit`. Nothing heavy is imported before a command needs it: `--help` knows no torch."""

from __future__ import annotations

import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from toolkit.errors import InputError, ToolkitError, did_you_mean

RUNS_HELP = "The run directory; by default runs/<name of the recipe>."
SET_HELP = "Replace one value, such as stages.1.params.sparsity=0.9; can be given many times."


class Commands(click.Group):
    """A group whose commands end with one sentence and an exit code instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command: exit code 2 for bad input, 1 for a failure, 130 for an interruption."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            ctx.exit(130)
        except ToolkitError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="torch-optimization-toolkit")
def main() -> None:
    """Make PyTorch models smaller and faster.

    A recipe (a TOML file) chains techniques such as distillation, pruning and quantization; every stage is measured.
    """


@main.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, metavar="PLACE=VALUE", help=SET_HELP)
@click.option("--output", type=click.Path(path_type=Path), help=RUNS_HELP)
@click.option("--overwrite", is_flag=True, help="Replace the run directory if it exists.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Where to train and measure.")
def run(recipe: str, settings: tuple[str, ...], output: Path | None, overwrite: bool, device: str | None) -> None:
    """Run RECIPE, a file or the name of a shipped recipe, and print its table."""
    from toolkit.overrides import parse_settings
    from toolkit.progress import progress_bars
    from toolkit.recipe import read_recipe
    from toolkit.report.table import as_text
    from toolkit.runner import run as run_recipe
    from toolkit.runs import RECIPE

    overrides = parse_settings(settings) | ({"device": device} if device else {})
    checked = read_recipe(recipe, overrides)
    output = output or Path("runs") / checked.name
    observer, bars = progress_bars()
    try:
        report = run_recipe(checked, output=output, overwrite=overwrite, observers=[observer])
    except (KeyboardInterrupt, ToolkitError) as error:
        bars.close()
        if (output / RECIPE).is_file() and not isinstance(error, InputError):
            click.echo(f"\nthe stages done so far are in {output}", err=True)
        raise
    bars.close()
    click.echo(as_text(report, shutil.get_terminal_size().columns))
    click.echo(f"\nThe model and the report are in {output}")


@main.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE…")
@click.option("--set", "settings", multiple=True, metavar="PLACE=VALUE", help=SET_HELP)
def check(recipes: tuple[str, ...], settings: tuple[str, ...]) -> None:
    """Find all mistakes in RECIPEs without training: keys, values, names, order, shapes."""
    from toolkit.assembly import assemble
    from toolkit.overrides import parse_settings
    from toolkit.recipe import read_recipe

    failures = []
    for recipe in recipes:
        try:
            assemble(read_recipe(recipe, parse_settings(settings)))
            click.echo(f"{recipe}: ok")
        except InputError as error:
            failures.append(str(error))
    if failures:
        raise InputError("\n".join(failures))


@main.command()
@click.argument("name", required=False)
def techniques(name: str | None) -> None:
    """List the installed techniques, or show what the technique NAME does and takes."""
    from toolkit.techniques import installed

    if name is not None:
        from toolkit.manual import manual

        click.echo(manual(name))
        return
    for distribution, plugins in groupby(
        sorted(installed(), key=lambda plugin: plugin.distribution), key=lambda plugin: plugin.distribution
    ):
        brought = list(plugins)
        click.echo(f"{distribution}: {brought[0].summary}")
        for plugin in brought:
            click.echo(f"  {plugin.name}")


@main.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the shipped recipes, or print the recipe NAME."""
    from toolkit.shipped import shipped, summary

    if name is not None:
        known = shipped()
        if name not in known:
            raise InputError(f"no recipe '{name}' is shipped{did_you_mean(name, known)}")
        click.echo(known[name].read_text(encoding="utf-8"), nl=False)
        return
    for recipe, path in shipped().items():
        click.echo(f"{recipe:<16} {summary(path)}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Show the run in the directory RUN again, and write its report.md and report.html anew."""
    from toolkit.report.page import PAGE, render
    from toolkit.report.reader import read_report
    from toolkit.report.table import as_markdown, as_text
    from toolkit.runs import TABLE, RunDirectory

    found = read_report(run)
    click.echo(as_text(found, shutil.get_terminal_size().columns))
    RunDirectory(run).write(TABLE, as_markdown(found))
    click.echo(f"\nThe page is {RunDirectory(run).write(PAGE, render(found))}")


@main.command()
@click.argument("first", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page.")
def diff(first: Path, second: Path, html: Path | None) -> None:
    """Say which settings of two runs differ, and which numbers moved beyond their intervals."""
    from toolkit.report.compare import compare
    from toolkit.report.difference import as_page, as_text
    from toolkit.runs import RunDirectory

    comparison = compare(first, second)
    click.echo(as_text(comparison))
    if html is not None:
        click.echo(f"\nThe page is {RunDirectory(html.parent).write(html.name, as_page(comparison))}")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--data", metavar="SOURCE", help="Another data source; by default that of the run.")
@click.option("--allow", multiple=True, metavar="SOURCE", help="A class of your own in the model: nets.py:Net.")
@click.option("--batch-size", type=click.IntRange(min=1), help="By default that of the run.")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), default=5.0, help="Seconds for the timing.")
def evaluate(directory: Path, data: str | None, allow: tuple[str, ...], batch_size: int | None, budget: float) -> None:
    """Measure the model in DIRECTORY, a run directory or one of its stages: accuracy, size and latency."""
    from toolkit.evaluation import evaluate as evaluate_model
    from toolkit.report.table import as_text

    report = evaluate_model(directory, data, allow=allow, batch_size=batch_size, budget_s=budget)
    click.echo(as_text(report))
