"""The commands `toolkit run` and `toolkit check`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from toolkit.cli.busy_machine import wait_passively_if_busy
from toolkit.errors import InputError, RecipeError, ToolkitError

SET_HELP = "Override one value, e.g. stages.1.params.sparsity=0.9; repeatable."


@click.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, metavar="PLACE=VALUE", help=SET_HELP)
@click.option("--output", type=click.Path(path_type=Path), help="Run directory.", show_default="runs/NAME")
@click.option("--overwrite", is_flag=True, help="Replace an existing run directory.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Device to train and measure on.")
@click.option("--no-cache", is_flag=True, help="Neither read nor write the cache of stage results.")
@click.option("--no-rehearsal", is_flag=True, help="Do not try every stage on one batch first.")
def run(
    recipe: str,
    settings: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    device: str | None,
    no_cache: bool,
    no_rehearsal: bool,
) -> None:
    """Run RECIPE and print the results.

    RECIPE is a file or the name of a shipped recipe (see `toolkit recipes`). An interrupted run resumes where it
    stopped, and stages that an earlier run has computed come from the cache. Before a long training, every stage runs
    on one batch, so that a mistake in a late stage is found at once.
    """
    wait_passively_if_busy()
    from toolkit.recipe.overrides import parse_settings
    from toolkit.recipe.read import read_recipe
    from toolkit.report.table import as_text
    from toolkit.runner import run as run_recipe
    from toolkit.runner.progress import progress, rehearsal_told
    from toolkit.storage.run_directory import RECIPE

    overrides = parse_settings(settings) | ({"device": device} if device else {})
    loaded = read_recipe(recipe, overrides)
    output = output or Path("runs") / loaded.name
    observer, display = progress()
    try:
        with rehearsal_told():
            report = run_recipe(
                loaded,
                output=output,
                overwrite=overwrite,
                observers=[observer],
                cache=not no_cache,
                rehearsal=not no_rehearsal,
            )
    except (KeyboardInterrupt, ToolkitError) as error:
        display.close()
        if (output / RECIPE).is_file() and not isinstance(error, InputError):
            click.echo(f"\nprogress is saved in {output}; {_how_to_resume(overwrite, error)}", err=True)
        raise
    display.close()
    click.echo(as_text(report, shutil.get_terminal_size().columns))
    click.echo(f"\nModel and report: {output}")


def _how_to_resume(overwrite: bool, error: BaseException) -> str:
    resume = f"run the same command {'without --overwrite' if overwrite else 'again'} to resume"
    return resume if isinstance(error, KeyboardInterrupt) else f"{resume}, or a changed recipe with --overwrite"


@click.command()
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE…")
@click.option("--set", "settings", multiple=True, metavar="PLACE=VALUE", help=SET_HELP)
@click.option("--rehearse", is_flag=True, help="Also try every stage on two batches; estimate time and size.")
def check(recipes: tuple[str, ...], settings: tuple[str, ...], rehearse: bool) -> None:
    """Check RECIPEs for mistakes without training.

    All mistakes are reported at once: unknown keys, invalid values, missing plugins, stages in an impossible order,
    shapes that do not match. With --rehearse, every stage also runs on copies of the model with one or two batches,
    which reveals errors that only appear in training. Nothing is written.
    """
    from toolkit.recipe.overrides import parse_settings

    errors = []
    for recipe in recipes:
        try:
            _check(recipe, parse_settings(settings), rehearse)
        except ToolkitError as error:
            errors.append(error)
    if errors:
        error_class = InputError if all(isinstance(error, InputError) for error in errors) else ToolkitError
        raise error_class("\n".join(map(str, errors)))


def _check(recipe: str, overrides: dict[str, Any], rehearse: bool) -> None:
    """Print that a recipe is valid, or raise a `ToolkitError` that says what is wrong."""
    from toolkit.recipe.read import read_recipe
    from toolkit.runner.assembly import assemble

    loaded = read_recipe(recipe, overrides)
    if not rehearse:
        assemble(loaded)
        click.echo(f"{recipe}: ok")
        return
    from toolkit.number_text import bytes_text, seconds
    from toolkit.runner.progress import rehearsal_told
    from toolkit.runner.rehearsal import rehearse as rehearse_recipe

    try:
        with rehearsal_told():
            rehearsal = rehearse_recipe(loaded)
    except RecipeError:
        raise
    except ToolkitError as error:
        raise type(error)(f"{recipe}: {error}") from error
    duration, size = seconds(rehearsal.duration_s), bytes_text(rehearsal.size_bytes)
    click.echo(f"{recipe}: ok; expect a run of about {duration} and a model of {size}\n\n{rehearsal}\n")
