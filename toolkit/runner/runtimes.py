"""The runtimes that a command names, with their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from toolkit.errors import InputError, TechniqueRefusal, ToolkitError
from toolkit.hooks import loading
from toolkit.recipe.problems import problems_of
from toolkit.recipe.read import PluginUse

ALL = "all"


def installed_runtimes() -> list[str]:
    """Return the names of all runtimes, whether or not what they need is installed."""
    return [plugin.name for plugin in loading.installed() if plugin.roles == {"runtime"}]


def chosen_runtimes(names: Sequence[str]) -> tuple[list[str], bool]:
    """Return the runtimes that a command names, each once, and whether it means all that work: by `all` or by none."""
    if names and ALL not in names:
        return list(dict.fromkeys(names)), False
    return installed_runtimes(), True


def split_refusals(
    errors: Mapping[str, ToolkitError], takes_what_works: bool
) -> tuple[dict[str, ToolkitError], list[ToolkitError]]:
    """Return which runtimes are left out, and the errors of a command that means all that work, or some by name."""
    refusals: dict[str, ToolkitError] = {}
    if takes_what_works:
        refusals |= {name: error for name, error in errors.items() if isinstance(error, TechniqueRefusal)}
    return refusals, [error for name, error in errors.items() if name not in refusals]


def settings_by_runtime(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of each runtime.

    Args:
        names: of the runtimes.
        settings: by key, with the runtime's name and a point in front of it; the name may be left out if there is one.

    Raises:
        InputError: a key does not say which of several runtimes it is of.
    """
    by_runtime: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in settings.items():
        name, point, rest = key.partition(".")
        if point and name in by_runtime:
            by_runtime[name][rest] = value
        elif len(names) == 1:
            by_runtime[names[0]][key] = value
        else:
            raise InputError(f"--set {key} must begin with the name of its runtime, as in NAME.{key}")
    return by_runtime


def use_of(name: str, settings: Mapping[str, Any]) -> PluginUse:
    """Return a runtime with settings.

    Raises:
        InputError: there is no such runtime, or a setting is wrong.
        TechniqueError: the runtime cannot be imported.
    """
    plugin = loading.load(name, "runtime")
    try:
        return PluginUse(plugin, plugin.params_class.model_validate(dict(settings)))
    except ValidationError as error:
        problem = next(problems_of(error, plugin.params_class))
        raise InputError(f"{name}: {problem}") from None
