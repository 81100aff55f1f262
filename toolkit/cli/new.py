"""Commands for authors of recipes and plugins."""

from __future__ import annotations

import json
from pathlib import Path

import click

from toolkit.cli.completion import PluginName
from toolkit.errors import ToolkitError

SHIPPED_BY = "torch-optimization-toolkit "


@click.command()
@click.option("--shipped", is_flag=True, help="Include only the techniques of the toolkit itself.")
def schema(shipped: bool) -> None:
    """Print a JSON Schema of recipes, with the params of all installed techniques.

    Editors use the schema to complete and check recipes. Save it next to a recipe, and make
    `#:schema ./recipe.schema.json` the first line of the recipe.
    """
    from toolkit.hooks.loading import installed
    from toolkit.recipe.schema import recipe_schema

    plugins = [plugin for plugin in installed() if not shipped or plugin.distribution.startswith(SHIPPED_BY)]
    click.echo(json.dumps(recipe_schema(plugins), indent=1, ensure_ascii=False))


@click.command()
def doctor() -> None:
    """Import every installed plugin, and report defects with their remedies."""
    from toolkit.hooks.doctor import diagnose

    broken = 0
    for diagnosis in diagnose():
        click.echo(str(diagnosis))
        for warning in diagnosis.warnings:
            click.echo(f"warning {warning}")
        broken += bool(diagnosis.problem)
    if broken:
        plugins = "1 plugin is" if broken == 1 else f"{broken} plugins are"
        raise ToolkitError(f"{plugins} broken; recipes that do not name {'it' if broken == 1 else 'them'} still work")


def _inline_table(_: click.Context, option: click.Parameter, text: str | None) -> str:
    """Return `text` if it is a TOML table on one line; raise a click error otherwise."""
    from toolkit.scaffold.templates import inline_table

    try:
        inline_table(text)
    except ValueError as error:
        raise click.BadParameter(f"must be a table such as {{ size = 32 }}; {error}", param=option) from error
    return text or ""


@click.group()
def new() -> None:
    """Create a recipe, a technique or a runtime that works, as a starting point."""


@new.command("recipe")
@click.option("--model", required=True, metavar="SOURCE", help="Model source, e.g. nets.py:Net.")
@click.option(
    "--model-args", metavar="TOML", help="Arguments of the model, e.g. '{ classes = 3 }'.", callback=_inline_table
)
@click.option("--data", required=True, metavar="SOURCE", help="Data source, e.g. data.py:load or image-folder.")
@click.option(
    "--data-args", metavar="TOML", help="Arguments of the data, e.g. '{ root = \"photos\" }'.", callback=_inline_table
)
@click.option(
    "--weights", type=click.Path(exists=True, dir_okay=False), help="Trained weights; the model is not trained again."
)
@click.option(
    "--technique",
    "techniques",
    multiple=True,
    type=PluginName(),
    metavar="NAME",
    help="Technique to use; repeatable.",
    show_default="those of the recipe mnist",
)
@click.option(
    "--output", type=click.Path(path_type=Path), default="recipe.toml", show_default=True, help="File to write."
)
def new_recipe(
    model: str,
    model_args: str,
    data: str,
    data_args: str,
    weights: str | None,
    techniques: tuple[str, ...],
    output: Path,
) -> None:
    """Write a commented recipe for a model and data.

    Every stage is rehearsed on two batches first. Techniques that do not work on the model are excluded.
    """
    from toolkit.number_text import bytes_text, seconds
    from toolkit.scaffold.recipes import RecipeRequest
    from toolkit.scaffold.recipes import new_recipe as write

    written = write(RecipeRequest(model, data, output, weights, model_args, data_args), techniques)
    rehearsal = written.rehearsal
    duration, size = seconds(rehearsal.duration_s), bytes_text(rehearsal.size_bytes)
    click.echo(f"{output} is written; expect a run of about {duration} and a model of {size}\n")
    click.echo(f"{rehearsal}\n")
    for choice in written.choices:
        click.echo(f"{output}: {choice}\n")
    click.echo(f"Run it with: toolkit run {output}")


@new.command("technique")
@click.argument("name")
@click.option("--output", type=click.Path(path_type=Path), help="Folder to write.", show_default="toolkit-NAME")
def new_technique(name: str, output: Path | None) -> None:
    """Write an installable distribution with a working technique NAME.

    The distribution contains hooks, tests, a recipe and a README that describes the method.
    """
    from toolkit.scaffold.distributions import new_distribution

    _echo_next(new_distribution("technique", name, output), name)


@new.command("runtime")
@click.argument("name")
@click.option("--output", type=click.Path(path_type=Path), help="Folder to write.", show_default="toolkit-NAME")
def new_runtime(name: str, output: Path | None) -> None:
    """Write an installable distribution with a working runtime NAME.

    The distribution contains hooks, tests, a recipe with an export and a README that describes the files.
    """
    from toolkit.scaffold.distributions import new_distribution

    _echo_next(new_distribution("runtime", name, output), name)


def _echo_next(folder: Path, name: str) -> None:
    click.echo(f"{folder} is written. Next:\n")
    click.echo(f"  cd {folder}\n  pip install -e '.[test]' && pytest\n  toolkit techniques {name}")
