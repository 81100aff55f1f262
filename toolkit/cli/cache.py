"""Commands about results that are kept for other runs."""

from __future__ import annotations

import re

import click

from toolkit.errors import InputError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """List the results of stages that runs have kept for each other."""
    if context.invoked_subcommand is not None:
        return
    from tabulate import tabulate

    from toolkit.cli.cache_listing import age_text, what
    from toolkit.number_text import bytes_text
    from toolkit.storage.cache import cache_folder, entries

    folder = cache_folder()
    found = list(entries(folder))
    if not found:
        click.echo(f"The cache {folder} is empty.")
        return
    lines = [[what(entry.path), bytes_text(entry.size_bytes), age_text(entry.age_s)] for entry in found]
    click.echo(tabulate(lines, headers=["what", "size", "last used"], disable_numparse=True))
    total = bytes_text(sum(entry.size_bytes for entry in found))
    click.echo(f"\n{len(found)} results, {total}, in {folder}")


@cache.command()
@click.option("--max-size", required=True, metavar="SIZE", help="What may stay, such as 5GB; 0 for nothing.")
def prune(max_size: str) -> None:
    """Remove the results that were not used for longest."""
    from toolkit.number_text import bytes_text
    from toolkit.storage.cache import cache_folder
    from toolkit.storage.cache import prune as prune_cache

    removed = prune_cache(cache_folder(), _bytes(max_size))
    total = bytes_text(sum(entry.size_bytes for entry in removed))
    click.echo(f"{len(removed)} results removed, {total}")


def _bytes(size: str) -> int:
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)\s*([kmgt]?)b?", size.strip().lower())
    if found is None:
        raise InputError(f"--max-size takes a size such as 500MB or 5GB, not {size!r}")
    return round(float(found[1]) * UNITS[found[2]])
