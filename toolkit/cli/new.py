"""Commands for those who write recipes and plugins."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click

from toolkit.cli.completion import PluginName
from toolkit.errors import ToolkitError

OWN = "torch-optimization-toolkit "


@click.command()
@click.option("--shipped", is_flag=True, help="Only of the techniques that come with the toolkit.")
def schema(shipped: bool) -> None:
    """Print a JSON Schema of recipes with all installed techniques, for editors to complete and check by.

    Save it beside a recipe and begin the recipe with `#:schema ./recipe.schema.json`.
    """
    from toolkit.hooks.loading import installed
    from toolkit.recipe.schema import recipe_schema

    plugins = [plugin for plugin in installed() if not shipped or plugin.distribution.startswith(OWN)]
    click.echo(json.dumps(recipe_schema(plugins), indent=1, ensure_ascii=False))


@click.command()
def doctor() -> None:
    """Import every installed plugin, and say what is wrong with it and how to mend it."""
    from toolkit.hooks.doctor import diagnose

    broken = 0
    for diagnosis in diagnose():
        click.echo(str(diagnosis))
        for warning in diagnosis.warnings:
            click.echo(f"warning {warning}")
        broken += bool(diagnosis.problem)
    if broken:
        verb = "plugin is" if broken == 1 else "plugins are"
        raise ToolkitError(f"{broken} {verb} broken: recipes that do not name {'it' if broken == 1 else 'them'} work")


def _inline_table(_: click.Context, option: click.Parameter, text: str | None) -> str:
    """A table on one line, as TOML writes it."""
    try:
        found = tomllib.loads(f"args = {text or '{}'}")
    except tomllib.TOMLDecodeError as error:
        raise click.BadParameter(f"it must be a table such as {{ size = 32 }}, and {error}", param=option) from error
    if not isinstance(found["args"], dict) or len(found) > 1 or "\n" in (text or ""):
        raise click.BadParameter("it must be one table such as { size = 32 }", param=option)
    return text or ""


@click.group()
def new() -> None:
    """Begin a recipe or a technique from one that works."""


@new.command("recipe")
@click.option("--model", required=True, metavar="SOURCE", help="What makes the model: my_nets.py:Net.")
@click.option("--model-args", metavar="TOML", help="Its keyword arguments: '{ classes = 3 }'.", callback=_inline_table)
@click.option("--data", required=True, metavar="SOURCE", help="What loads the data: my_data.py:load, image-folder.")
@click.option("--data-args", metavar="TOML", help="Its arguments: '{ root = \"photos\" }'.", callback=_inline_table)
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="What the model has learnt.")
@click.option(
    "--technique",
    "techniques",
    multiple=True,
    type=PluginName(),
    metavar="NAME",
    help="By default those of recipe mnist.",
)
@click.option("--output", type=click.Path(path_type=Path), default="recipe.toml", show_default=True)
def new_recipe(
    model: str,
    model_args: str,
    data: str,
    data_args: str,
    weights: str | None,
    techniques: tuple[str, ...],
    output: Path,
) -> None:
    """Write a commented recipe for your model and data, once it has been rehearsed."""
    from toolkit.number_text import bytes_text, seconds
    from toolkit.scaffold.recipes import RecipeRequest
    from toolkit.scaffold.recipes import new_recipe as write

    rehearsal = write(RecipeRequest(model, data, output, weights, model_args, data_args), techniques)
    duration, size = seconds(rehearsal.duration_s), bytes_text(rehearsal.size_bytes)
    click.echo(f"{output} is written: it takes about {duration} and leaves a model of {size}\n")
    click.echo(f"{rehearsal}\n\nRun it with: toolkit run {output}")


@new.command("technique")
@click.argument("name")
@click.option("--output", type=click.Path(path_type=Path), help="The folder; by default toolkit-NAME.")
def new_technique(name: str, output: Path | None) -> None:
    """Write an installable distribution with a technique NAME that works: hooks, tests, a recipe, a method card."""
    from toolkit.scaffold.techniques import new_technique as write

    folder = write(name, output)
    click.echo(f"{folder} is written. Next:\n")
    click.echo(f"  cd {folder}\n  pip install -e '.[test]' && pytest\n  toolkit techniques {name}")
