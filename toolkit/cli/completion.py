"""Completion of arguments in a shell: recipes, plugins, sources and run directories, without importing torch."""

# ruff: noqa: ARG002  # click prescribes the signature

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

# A copy of toolkit.storage.run_directory.MARK, whose module imports torch; a test compares the two.
MARK = ".toolkit-run"
RUNS = "runs"


class Recipe(click.ParamType):
    """A recipe file, or the name of a shipped recipe."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return shipped recipes, .toml files, and folders that may contain more."""
        local = [path for path in _paths(incomplete) if path.endswith((".toml", "/"))]
        return [*_shipped(incomplete), *map(CompletionItem, local)]


class ShippedRecipe(click.ParamType):
    """The name of a shipped recipe."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return shipped recipes, each with its summary."""
        return _shipped(incomplete)


class PluginName(click.ParamType):
    """The name of an installed plugin."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names of all installed plugins, read from metadata."""
        from toolkit.hooks.loading import installed

        items = (CompletionItem(plugin.name, help=plugin.distribution) for plugin in installed())
        return _starting_with(items, incomplete)


class RunDirectory(click.Path):
    """A run directory."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return run directories below the typed path and in runs/, or other folders if there are none."""
        folders = [path for path in _paths(incomplete) if path.endswith("/")]
        below = [path for folder in folders for path in _paths(folder)]
        default = [path for path in _paths(f"{RUNS}/") if path.startswith(incomplete)]
        runs = sorted({path.rstrip("/") for path in (*folders, *below, *default) if os.path.isfile(f"{path}{MARK}")})
        return [CompletionItem(run) for run in runs] or [CompletionItem(folder) for folder in folders]


COMPLETED: Mapping[tuple[str, str], click.ParamType] = {
    ("bench", "run"): RunDirectory(path_type=Path),
    ("check", "recipes"): Recipe(),
    ("diff", "first"): RunDirectory(path_type=Path),
    ("diff", "second"): RunDirectory(path_type=Path),
    ("evaluate", "directory"): RunDirectory(path_type=Path),
    ("export", "run"): RunDirectory(path_type=Path),
    ("recipes", "name"): ShippedRecipe(),
    ("report", "run"): RunDirectory(path_type=Path),
    ("run", "recipe"): Recipe(),
    ("techniques", "name"): PluginName(),
}


def complete_arguments(commands: Mapping[str, click.Command]) -> None:
    """Set the types that complete the arguments of commands."""
    for name, command in commands.items():
        for parameter in command.params:
            parameter.type = COMPLETED.get((name, parameter.name or ""), parameter.type)


def _shipped(incomplete: str) -> list[CompletionItem]:
    from toolkit.recipe.shipped import shipped, summary

    return _starting_with((CompletionItem(name, help=summary(path)) for name, path in shipped().items()), incomplete)


def _starting_with(items: Iterable[CompletionItem], incomplete: str) -> list[CompletionItem]:
    return [item for item in items if item.value.startswith(incomplete)]


def _paths(incomplete: str) -> list[str]:
    """Return the paths that start with `incomplete`, folders with a slash; hidden files only after a typed dot."""
    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))
    return [f"{path}/" if os.path.isdir(path) else path for path in paths]
