"""Commands that run recipes, or say whether they could be run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from toolkit.errors import InputError, RecipeError, ToolkitError

RUNS_HELP = "The run directory; by default runs/<name of the recipe>."
SET_HELP = "Replace one value, such as stages.1.params.sparsity=0.9; can be given many times."


@click.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, metavar="PLACE=VALUE", help=SET_HELP)
@click.option("--output", type=click.Path(path_type=Path), help=RUNS_HELP)
@click.option("--overwrite", is_flag=True, help="Replace the run directory if it exists.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Where to train and measure.")
@click.option("--no-cache", is_flag=True, help="Compute everything, and keep nothing for other runs.")
def run(
    recipe: str, settings: tuple[str, ...], output: Path | None, overwrite: bool, device: str | None, no_cache: bool
) -> None:
    """Run RECIPE, a file or the name of a shipped recipe, and print its table.

    A run that was interrupted goes on where it stopped; stages that an earlier run has computed are not repeated.
    """
    from toolkit.recipe.overrides import parse_settings
    from toolkit.recipe.read import read_recipe
    from toolkit.report.table import as_text
    from toolkit.runner import run as run_recipe
    from toolkit.runner.progress import progress_bars
    from toolkit.storage.run_directory import RECIPE

    overrides = parse_settings(settings) | ({"device": device} if device else {})
    checked = read_recipe(recipe, overrides)
    output = output or Path("runs") / checked.name
    observer, bars = progress_bars()
    try:
        report = run_recipe(checked, output=output, overwrite=overwrite, observers=[observer], cache=not no_cache)
    except (KeyboardInterrupt, ToolkitError) as error:
        bars.close()
        if (output / RECIPE).is_file() and not isinstance(error, InputError):
            click.echo(f"\nwhat is done so far is in {output}: the same command goes on from there", err=True)
        raise
    bars.close()
    click.echo(as_text(report, shutil.get_terminal_size().columns))
    click.echo(f"\nThe model and the report are in {output}")


@click.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE…")
@click.option("--set", "settings", multiple=True, metavar="PLACE=VALUE", help=SET_HELP)
@click.option("--rehearse", is_flag=True, help="Also run every stage on two batches, and estimate time and size.")
def check(recipes: tuple[str, ...], settings: tuple[str, ...], rehearse: bool) -> None:
    """Find all mistakes in RECIPEs without training: keys, values, names, order, shapes.

    With --rehearse every hook of every stage is run on copies, with a batch or two: what only shows there is found in
    seconds. Nothing is written.
    """
    from toolkit.recipe.overrides import parse_settings

    failures = []
    for recipe in recipes:
        try:
            _check(recipe, parse_settings(settings), rehearse)
        except ToolkitError as error:
            failures.append(error)
    if failures:
        kind = InputError if all(isinstance(error, InputError) for error in failures) else ToolkitError
        raise kind("\n".join(map(str, failures)))


def _check(recipe: str, overrides: dict[str, Any], rehearse: bool) -> None:
    """Say that a recipe is fine, or raise what is wrong with it."""
    from toolkit.recipe.read import read_recipe
    from toolkit.runner.assembly import assemble

    checked = read_recipe(recipe, overrides)
    if not rehearse:
        assemble(checked)
        click.echo(f"{recipe}: ok")
        return
    from toolkit.number_text import bytes_text, seconds
    from toolkit.runner.rehearsal import rehearse as rehearse_recipe

    try:
        rehearsal = rehearse_recipe(checked)
    except RecipeError:
        raise
    except ToolkitError as error:
        raise type(error)(f"{recipe}: {error}") from error
    duration, size = seconds(rehearsal.duration_s), bytes_text(rehearsal.size_bytes)
    click.echo(f"{recipe}: ok, a run takes about {duration} and leaves a model of {size}\n\n{rehearsal}\n")
