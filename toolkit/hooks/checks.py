"""Checks that the runner can call a module's hooks: known names, existing arguments, no defaults."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import pluggy
from pydantic import ValidationError

from toolkit.errors import TechniqueError, did_you_mean
from toolkit.hooks.specs import PROJECT
from toolkit.params import Params
from toolkit.rows import Number

log = logging.getLogger("toolkit")


def check_functions(module: Any, plugin: str, specification: type, others: Mapping[type, str]) -> None:
    """Raise a `TechniqueError` for the first function that is not a valid hook of `specification`.

    Args:
        module: has the functions as attributes.
        plugin: its name and distribution; sentences begin with it.
        specification: the hooks that the module may have.
        others: the hooks of other kinds of plugins, which the module must not have, each with how a recipe names
            plugins of that kind.
    """
    marked = _marked(module)
    known = hook_names(specification)
    for name in marked:
        for other, use in others.items():
            if name in hook_names(other) - known:
                raise TechniqueError(f"{plugin} has the hook {name}; name it {use}")
        if name not in known:
            raise TechniqueError(
                f"{plugin} marks '{name}' as a hook, but no hook has that name{did_you_mean(name, known)}"
            )
        check_arguments(getattr(module, name), name, plugin, specification)
    for name in sorted(known - set(marked)):
        if inspect.isfunction(getattr(module, name, None)):
            raise TechniqueError(f"{plugin} has a function {name} that is not marked as a hook; add @toolkit.hookimpl")
    if not marked:
        raise TechniqueError(f"{plugin} implements no hook; define at least one of {', '.join(sorted(known))}")


def check_arguments(function: Any, hook: str, plugin: str, specification: type) -> None:
    """Raise a `TechniqueError` for an argument that is never passed; pluggy accepts most of them silently."""
    passed = arguments_of(getattr(specification, hook))
    for argument in inspect.signature(function).parameters.values():
        if argument.default is not argument.empty or argument.kind is argument.KEYWORD_ONLY:
            raise TechniqueError(
                f"{plugin}: the argument '{argument.name}' of {hook} has a default or is keyword-only, "
                f"so it is never passed; make it a plain argument"
            )
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            raise TechniqueError(f"{plugin}: {hook} takes '*{argument.name}', which stays empty; name the arguments")
        if argument.name not in passed:
            hint = did_you_mean(argument.name, passed)
            raise TechniqueError(f"{plugin}: {hook} has no argument '{argument.name}'{hint}")


def register(manager: pluggy.PluginManager, module: Any, plugin: str) -> None:
    """Register a checked module; warnings that a hook or an argument is deprecated name the plugin."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            manager.register(module)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise TechniqueError(f"{plugin} has an invalid hook: {' '.join(str(error).split())}") from error
    for warning in caught:
        sentence = f"{plugin}: {warning.message}"
        log.warning("%s", sentence)
        warnings.warn_explicit(sentence, FutureWarning, warning.filename, warning.lineno)


def checked_params(module: Any, plugin: str) -> type[Params]:
    """Return the module's `Params`, or empty ones; a `TechniqueError` for another class or for invalid defaults."""
    params = getattr(module, "Params", Params)
    if not (isinstance(params, type) and issubclass(params, Params)):
        raise TechniqueError(f"{plugin}: Params must be a class derived from toolkit.Params")
    try:
        params()
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place, reason = ".".join(map(str, wrong["loc"])) or "the whole", wrong["msg"]
        raise TechniqueError(
            f"{plugin}: Params cannot be built from its defaults, '{place}': {reason}; give every field a valid default"
        ) from error
    return params


def checked_numbers(module: Any, plugin: str) -> Mapping[str, Number]:
    """Return the module's `numbers`, or none; a `TechniqueError` for anything but descriptions by name."""
    numbers = getattr(module, "numbers", {})
    if isinstance(numbers, ModuleType):  # of the standard library
        return {}
    if not isinstance(numbers, dict) or not all(
        isinstance(name, str) and isinstance(number, Number) for name, number in numbers.items()
    ):
        raise TechniqueError(
            f"{plugin}: `numbers` must be a dictionary of toolkit.Number by name, found {numbers!r:.60}"
        )
    return numbers


def hook_names(specification: type) -> set[str]:
    """Return the names of the hooks that a class specifies."""
    return {name for name, value in vars(specification).items() if hasattr(value, f"{PROJECT}_spec")}


def arguments_of(hook: Callable[..., Any]) -> list[str]:
    """Return the arguments that a hook is passed."""
    return [name for name in inspect.signature(hook).parameters if name != "self"]


def _marked(module: Any) -> list[str]:
    names: Iterable[str] = (name for name in dir(module) if not name.startswith("__"))
    return [name for name in names if hasattr(getattr(module, name, None), f"{PROJECT}_impl")]
