"""Commands that list what is installed."""

from __future__ import annotations

from collections.abc import Sequence

import click

from toolkit.errors import InputError, ToolkitError, did_you_mean


@click.command()
@click.argument("name", required=False)
@click.option("--contract", is_flag=True, help="Check the plugin NAME against the contract of its kind.")
def techniques(name: str | None, contract: bool) -> None:
    """List the installed techniques, run-wide plugins and runtimes, or show documentation and params of NAME."""
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
    from toolkit.testing.checking import bugs, check_contract, undescribed_numbers

    if name is None:
        raise InputError("--contract requires a plugin; pass its NAME")
    verdicts = []
    for verdict in check_contract(name):
        click.echo(f"{'broken' if verdict.problem else 'kept  '}  {verdict.clause}")
        verdicts.append(verdict)
    if hint := undescribed_numbers(name):
        click.echo(f"hint    {hint}")
    if not (found := bugs(verdicts)):
        return
    for bug in found:
        click.echo(f"\n{bug.problem}\n" + (f"  {bug.line}\n" if bug.line else "") + f"  breaks: {_listed(bug.clauses)}")
    broken = sum(len(bug.clauses) for bug in found)
    causes = "1 cause is" if len(found) == 1 else f"{len(found)} causes are"
    raise ToolkitError(f"'{name}' breaks {broken} of {len(verdicts)} clauses; the {causes} listed above")


def _listed(clauses: Sequence[str]) -> str:
    """Return clauses in one line, with the toy models of each in one pair of brackets."""
    toys: dict[str, list[str]] = {}
    for clause in clauses:
        sentence, _, toy = clause.removesuffix("]").partition(" [")
        toys.setdefault(sentence, []).extend([toy] if toy else [])
    return "; ".join(f"{sentence} [{', '.join(names)}]" if names else sentence for sentence, names in toys.items())


@click.command()
@click.argument("name", required=False)
def sources(name: str | None) -> None:
    """List the built-in data sources, or show the documentation and the arguments of NAME."""
    import inspect

    from toolkit.data.built_in import DATASETS

    if name is None:
        width = max(map(len, DATASETS))
        for source, load in DATASETS.items():
            click.echo(f"{source:<{width}}  {(inspect.getdoc(load) or '').partition(chr(10))[0]}")
        return
    if name not in DATASETS:
        raise InputError(f"unknown data source '{name}'{did_you_mean(name, DATASETS)}")
    parameters = inspect.signature(DATASETS[name]).parameters.values()
    arguments = ", ".join(
        each.name if each.default is each.empty else f"{each.name}={each.default!r}" for each in parameters
    )
    click.echo(f"{name}({arguments})\n\n{inspect.getdoc(DATASETS[name])}")


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
