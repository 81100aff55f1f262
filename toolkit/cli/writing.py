"""Commands for those who write recipes and plugins."""

from __future__ import annotations

import json

import click

from toolkit.errors import ToolkitError

OWN = "torch-optimization-toolkit "


@click.command()
@click.option("--shipped", is_flag=True, help="Only of the techniques that come with the toolkit.")
def schema(shipped: bool) -> None:
    """Print a JSON Schema of recipes with all installed techniques, for editors to complete and check by.

    Save it beside a recipe and begin the recipe with `#:schema ./recipe.schema.json`.
    """
    from toolkit.schema import recipe_schema
    from toolkit.techniques import installed

    plugins = [plugin for plugin in installed() if not shipped or plugin.distribution.startswith(OWN)]
    click.echo(json.dumps(recipe_schema(plugins), indent=1, ensure_ascii=False))


@click.command()
def doctor() -> None:
    """Import every installed plugin, and say what is wrong with it and how to mend it."""
    from toolkit.doctor import diagnose

    broken = 0
    for diagnosis in diagnose():
        click.echo(str(diagnosis))
        for warning in diagnosis.warnings:
            click.echo(f"warning {warning}")
        broken += bool(diagnosis.problem)
    if broken:
        verb = "plugin is" if broken == 1 else "plugins are"
        raise ToolkitError(f"{broken} {verb} broken: recipes that do not name {'it' if broken == 1 else 'them'} work")
