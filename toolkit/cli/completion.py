"""What a shell proposes when a word is completed: recipes, plugins, run directories. No torch is imported for it."""

# ruff: noqa: ARG002  # the signature is that of click

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

# Of toolkit.storage.run_directory, which imports torch; a test compares them.
MARK = ".toolkit-run"
RUNS = "runs"


class Recipe(click.ParamType):
    """A recipe file, or the name of a shipped recipe."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Shipped recipes, the .toml files here, and the folders in which there may be more."""
        here = [path for path in _paths(incomplete) if path.endswith((".toml", "/"))]
        return [*_shipped(incomplete), *map(CompletionItem, here)]


class ShippedRecipe(click.ParamType):
    """The name of a shipped recipe."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Shipped recipes, each with what it does."""
        return _shipped(incomplete)


class PluginName(click.ParamType):
    """The name of an installed plugin."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """All of them, from metadata; none is imported."""
        from toolkit.hooks.loading import installed

        return _beginning((CompletionItem(plugin.name, help=plugin.distribution) for plugin in installed()), incomplete)


class RunDirectory(click.Path):
    """A run directory."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Run directories under what was typed, here and in runs/; other folders where there is none."""
        folders = [path for path in _paths(incomplete) if path.endswith("/")]
        below = [path for folder in folders for path in _paths(folder)]
        usual = [path for path in _paths(f"{RUNS}/") if path.startswith(incomplete)]
        runs = sorted({path.rstrip("/") for path in (*folders, *below, *usual) if os.path.isfile(f"{path}{MARK}")})
        return [CompletionItem(run) for run in runs] or [CompletionItem(folder) for folder in folders]


COMPLETED: Mapping[tuple[str, str], click.ParamType] = {
    ("check", "recipes"): Recipe(),
    ("diff", "first"): RunDirectory(path_type=Path),
    ("diff", "second"): RunDirectory(path_type=Path),
    ("evaluate", "directory"): RunDirectory(path_type=Path),
    ("recipes", "name"): ShippedRecipe(),
    ("report", "run"): RunDirectory(path_type=Path),
    ("run", "recipe"): Recipe(),
    ("techniques", "name"): PluginName(),
}


def complete(commands: Mapping[str, click.Command]) -> None:
    """Let the arguments of commands be completed."""
    for name, command in commands.items():
        for parameter in command.params:
            parameter.type = COMPLETED.get((name, parameter.name or ""), parameter.type)


def _shipped(incomplete: str) -> list[CompletionItem]:
    from toolkit.recipe.shipped import shipped, summary

    return _beginning((CompletionItem(name, help=summary(path)) for name, path in shipped().items()), incomplete)


def _beginning(items: Iterable[CompletionItem], incomplete: str) -> list[CompletionItem]:
    return [item for item in items if item.value.startswith(incomplete)]


def _paths(incomplete: str) -> list[str]:
    """What lies at paths that begin so, folders with a slash at the end; hidden files only where they are asked for."""
    found = sorted(glob.glob(f"{glob.escape(incomplete)}*"))
    return [f"{path}/" if os.path.isdir(path) else path for path in found]
