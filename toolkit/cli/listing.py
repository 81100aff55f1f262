"""Commands that show what is installed."""

from __future__ import annotations

from itertools import groupby

import click

from toolkit.errors import InputError, did_you_mean


@click.command()
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


@click.command()
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
