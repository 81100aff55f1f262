"""Commands that list what is installed."""

from __future__ import annotations

import click

from toolkit.errors import InputError, ToolkitError, did_you_mean


@click.command()
@click.argument("name", required=False)
@click.option("--contract", is_flag=True, help="Check the plugin NAME against the contract of its kind.")
def techniques(name: str | None, contract: bool) -> None:
    """List the installed techniques, or show the documentation and the params of NAME."""
    from tabulate import tabulate

    from toolkit.hooks.loading import installed

    if contract:
        _check(name)
        return
    if name is not None:
        from toolkit.hooks.manual import manual

        click.echo(manual(name))
        return
    rows = [(plugin.name, plugin.distribution, plugin.summary) for plugin in installed()]
    click.echo(tabulate(rows, tablefmt="plain", disable_numparse=True))


def _check(name: str | None) -> None:
    from toolkit.testing import check_contract

    if name is None:
        raise InputError("--contract requires a plugin; pass its NAME")
    broken = 0
    for verdict in check_contract(name):
        click.echo(str(verdict))
        broken += bool(verdict.problem)
    if broken:
        raise ToolkitError(f"'{name}' breaks {broken} of the clauses above: each says what to change")


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the shipped recipes, or print the recipe NAME."""
    from toolkit.recipe.shipped import shipped, summary

    available = shipped()
    if name is not None:
        if name not in available:
            raise InputError(f"unknown recipe '{name}'{did_you_mean(name, available)}")
        click.echo(available[name].read_text(encoding="utf-8"), nl=False)
        return
    width = max(map(len, available))
    for recipe, path in available.items():
        click.echo(f"{recipe:<{width}}  {summary(path)}")
