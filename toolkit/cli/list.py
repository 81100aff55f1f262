"""Commands that show what is installed."""

from __future__ import annotations

import click

from toolkit.errors import InputError, ToolkitError, did_you_mean


@click.command()
@click.argument("name", required=False)
@click.option(
    "--contract", is_flag=True, help="Check whether NAME keeps the contract of all plugins, clause by clause."
)
def techniques(name: str | None, contract: bool) -> None:
    """List the installed techniques, or show what the technique NAME does and takes."""
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
        raise InputError("--contract checks one plugin: name it")
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

    if name is not None:
        known = shipped()
        if name not in known:
            raise InputError(f"no recipe '{name}' is shipped{did_you_mean(name, known)}")
        click.echo(known[name].read_text(encoding="utf-8"), nl=False)
        return
    found = shipped()
    width = max(map(len, found))
    for recipe, path in found.items():
        click.echo(f"{recipe:<{width}}  {summary(path)}")
