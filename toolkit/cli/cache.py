"""Commands for the cache of stage results."""

from __future__ import annotations

import re

import click

from toolkit.errors import InputError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """List the cached results of stages.

    A run reads the stages that an earlier run has computed from the cache.
    """
    if context.invoked_subcommand is not None:
        return
    from tabulate import tabulate

    from toolkit.cli.cache_listing import age_text, stage_title
    from toolkit.number_text import bytes_text
    from toolkit.storage.cache import entries, stages_folder

    folder = stages_folder()
    results = list(entries(folder))
    if not results:
        click.echo(f"The cache {folder} is empty.")
        return
    lines = [[stage_title(entry.path), bytes_text(entry.size_bytes), age_text(entry.age_s)] for entry in results]
    click.echo(tabulate(lines, headers=["stage", "size", "last used"], disable_numparse=True))
    total = bytes_text(sum(entry.size_bytes for entry in results))
    click.echo(f"\n{len(results)} results, {total}, in {folder}")


@cache.command()
@click.option("--max-size", required=True, metavar="SIZE", help="Size to keep, e.g. 5GB; 0 for nothing.")
def prune(max_size: str) -> None:
    """Remove the least recently used results."""
    from toolkit.number_text import bytes_text
    from toolkit.storage.cache import prune as prune_cache
    from toolkit.storage.cache import stages_folder

    removed = prune_cache(stages_folder(), _parse_bytes(max_size))
    total = bytes_text(sum(entry.size_bytes for entry in removed))
    click.echo(f"{len(removed)} results removed, {total}")


def _parse_bytes(size: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)\s*([kmgt]?)b?", size.strip().lower())
    if match is None:
        raise InputError(f"--max-size must be a size, found {size!r}; pass e.g. 500MB or 5GB")
    return round(float(match[1]) * UNITS[match[2]])
