"""From an entry point of the group `toolkit` to a technique or a run-wide plugin whose hooks have been checked.

Only what a recipe names is imported; listing what is installed reads metadata alone.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal

import pluggy

from toolkit.errors import InputError, TechniqueError, TechniqueRefusal, ToolkitError, described, did_you_mean
from toolkit.hookspecs import PROJECT, ObserverHooks, TechniqueHooks
from toolkit.params import Params

GROUP = "toolkit"
Role = Literal["technique", "observer"]
SPECIFICATIONS: dict[Role, type] = {"technique": TechniqueHooks, "observer": ObserverHooks}


@dataclass(frozen=True)
class Installed:
    """What metadata says about an installed plugin; nothing of it has been imported."""

    entry_point: EntryPoint

    @property
    def name(self) -> str:
        """The name that recipes use."""
        return self.entry_point.name

    @property
    def distribution(self) -> str:
        """Name and version of the distribution that brings it."""
        dist = self.entry_point.dist
        return f"{dist.name} {dist.version}" if dist else "an unknown distribution"

    @property
    def summary(self) -> str:
        """The distribution's one-line description."""
        return str(self.entry_point.dist.metadata.json.get("summary", "")) if self.entry_point.dist else ""


@dataclass(frozen=True)
class Technique:
    """An imported plugin: its settings' class and its hooks, behind a plugin manager of its own."""

    name: str
    distribution: str
    module: ModuleType
    params_class: type[Params]
    hooks: Any

    def __str__(self) -> str:
        return f"'{self.name}' ({self.distribution})"

    def implements(self, hook: str) -> bool:
        """Whether the plugin has this hook."""
        caller = getattr(self.hooks, hook, None)
        return caller is not None and bool(caller.get_hookimpls())

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook; whatever it raises becomes a `TechniqueError` that names plugin, distribution and hook."""
        try:
            return getattr(self.hooks, hook)(**arguments)
        except ToolkitError as error:
            raise TechniqueRefusal(f"{self} refused in {hook}: {error}") from error
        except (Exception, SystemExit) as error:
            raise TechniqueError(f"{self} failed in {hook} with {described(error)}") from error


def installed() -> list[Installed]:
    """All installed plugins, by name, from metadata."""
    return sorted((Installed(point) for point in entry_points(group=GROUP)), key=lambda plugin: plugin.name)


def find(name: str, role: Role = "technique") -> Installed:
    """The installed plugin with this name; an `InputError` where there is none, or more than one."""
    plugins = installed()
    matches = [plugin for plugin in plugins if plugin.name == name]
    if not matches:
        hint = did_you_mean(name, (plugin.name for plugin in plugins))
        kind = "technique" if role == "technique" else "run-wide plugin"
        raise InputError(f"no {kind} '{name}' is installed{hint}")
    if len(matches) > 1:
        owners = " and ".join(sorted(plugin.distribution for plugin in matches))
        raise InputError(f"'{name}' is brought by both {owners}: uninstall one of them")
    return matches[0]


@cache
def load(name: str, role: Role = "technique") -> Technique:
    """Import an installed plugin and check its hooks; a `ToolkitError` says what is wrong with it."""
    plugin = find(name, role)
    try:
        module = plugin.entry_point.load()
    except Exception as error:
        raise TechniqueError(f"'{name}' ({plugin.distribution}) cannot be imported: {described(error)}") from error
    return from_module(module, name, plugin.distribution, role)


def from_module(module: Any, name: str, distribution: str = "not installed", role: Role = "technique") -> Technique:
    """Check a module (or an object with the same attributes) that implements hooks, as `load` does."""
    plugin = f"'{name}' ({distribution})"
    specification = SPECIFICATIONS[role]
    _check_functions(module, plugin, specification, role)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(specification)
    try:
        manager.register(module, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise TechniqueError(f"{plugin} has a wrong hook: {' '.join(str(error).split())}") from error
    params_class = getattr(module, "Params", Params)
    if not (isinstance(params_class, type) and issubclass(params_class, Params)):
        raise TechniqueError(f"{plugin}: Params must be a class derived from toolkit.Params")
    return Technique(name, distribution, module, params_class, manager.hook)


def _check_functions(module: Any, plugin: str, specification: type, role: Role) -> None:
    marked = _marked(module)
    known = _hook_names(specification)
    other = _hook_names(SPECIFICATIONS["observer" if role == "technique" else "technique"]) - known
    for name in marked:
        if name in other:
            use = "under [[plugins]]" if role == "technique" else "as the technique of a stage"
            raise TechniqueError(f"{plugin} has the hook {name}: name it {use}")
        if name not in known:
            hint = did_you_mean(name, known)
            raise TechniqueError(f"{plugin} marks '{name}', which is no hook{hint}")
        _check_arguments(getattr(module, name), name, plugin)
    for name in known - set(marked):
        if inspect.isfunction(getattr(module, name, None)):
            raise TechniqueError(f"{plugin} has a function {name} that is not marked: add @toolkit.hookimpl")
    if not marked:
        raise TechniqueError(f"{plugin} implements no hook: it needs one of {', '.join(sorted(known))}")


def _check_arguments(function: Any, hook: str, plugin: str) -> None:
    # pluggy never passes these, and does not say so.
    for argument in inspect.signature(function).parameters.values():
        if argument.default is not argument.empty or argument.kind is argument.KEYWORD_ONLY:
            raise TechniqueError(
                f"{plugin}: the argument '{argument.name}' of {hook} has a default or is keyword-only, "
                f"and would never be passed: make it a plain argument"
            )


def _marked(module: Any) -> list[str]:
    functions = ((name, getattr(module, name, None)) for name in dir(module) if not name.startswith("__"))
    return [name for name, function in functions if hasattr(function, f"{PROJECT}_impl")]


def _hook_names(specification: type) -> set[str]:
    return {name for name, value in vars(specification).items() if hasattr(value, f"{PROJECT}_spec")}
