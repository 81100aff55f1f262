"""Finds plugins by their entry points in the group `toolkit`, imports the ones that are needed, checks their hooks.

Only the plugins that a recipe names are imported. Listing what is installed reads metadata and source.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, Literal

import pluggy

from toolkit.errors import InputError, TechniqueError, TechniqueRefusal, ToolkitError, described, did_you_mean
from toolkit.hooks import checks as hookchecks
from toolkit.hooks.entry_points import entry_points
from toolkit.hooks.source import read_source
from toolkit.hooks.specs import PROJECT, ObserverHooks, RuntimeHooks, TechniqueHooks
from toolkit.params import Params
from toolkit.rows import Number

GROUP = "toolkit"
Role = Literal["technique", "observer", "runtime"]
SPECIFICATIONS: dict[Role, type] = {
    "technique": TechniqueHooks,
    "observer": ObserverHooks,
    "runtime": RuntimeHooks,
}
# How a recipe names plugins of each kind.
NAMED: dict[Role, str] = {
    "technique": "as the technique of a stage, because it changes models",
    "observer": "under [[plugins]], because it observes the whole run",
    "runtime": "under [[exports]], because it writes files",
}
KINDS: dict[Role, str] = {"technique": "technique", "observer": "run-wide plugin", "runtime": "runtime"}

REQUIRED: dict[Role, tuple[str, ...]] = {"runtime": ("export", "open")}


def _own_hooks(role: Role) -> set[str]:
    """Return the hooks that only plugins of this kind have."""
    others = (hookchecks.hook_names(hooks) for other, hooks in SPECIFICATIONS.items() if other != role)
    return hookchecks.hook_names(SPECIFICATIONS[role]).difference(*others)


OWN_HOOKS: dict[Role, set[str]] = {role: _own_hooks(role) for role in SPECIFICATIONS}


@dataclass(frozen=True)
class Installed:
    """What is known of an installed plugin without importing it."""

    entry_point: EntryPoint

    @property
    def name(self) -> str:
        """The name that recipes use."""
        return self.entry_point.name

    @property
    def _module(self) -> str:
        # `entry_point.module` raises for a value that is malformed, which is no reason not to list the others.
        return self.entry_point.value.partition(":")[0].partition("[")[0].strip()

    @property
    def distribution(self) -> str:
        """Name and version of the distribution that provides it."""
        dist = self.entry_point.dist
        return f"{dist.name} {dist.version}" if dist else "an unknown distribution"

    @property
    def summary(self) -> str:
        """What it does, in one line: the first paragraph of its docstring, else its distribution's description."""
        if said := read_source(self._module).summary:
            return said
        return str(self.entry_point.dist.metadata.json.get("summary", "")) if self.entry_point.dist else ""

    @property
    def roles(self) -> frozenset[Role]:
        """The kinds of plugin that it can be, by the hooks in its source; both where these do not tell."""
        hooks = read_source(self._module).hooks
        return frozenset(role for role, own in OWN_HOOKS.items() if hooks & own) or frozenset(OWN_HOOKS)


@dataclass(frozen=True)
class Plugin:
    """An imported plugin: its `Params` class, its hooks behind a plugin manager of its own, what its numbers mean.

    `open_source` is the source code of a runtime's hook `open`, empty if it cannot be read. It is read when the plugin
    is imported, because its file may be edited during a run.
    """

    name: str
    distribution: str
    module: ModuleType
    params_class: type[Params]
    hooks: Any
    numbers: Mapping[str, Number] = field(default_factory=dict)
    open_source: str = ""

    def __str__(self) -> str:
        return f"'{self.name}' ({self.distribution})"

    def implements(self, hook: str) -> bool:
        """Return whether the plugin implements the hook."""
        caller = getattr(self.hooks, hook, None)
        return caller is not None and bool(caller.get_hookimpls())

    def takes(self, hook: str, argument: str) -> bool:
        """Return whether the plugin has this hook and takes this argument in it."""
        caller = getattr(self.hooks, hook, None)
        return caller is not None and any(argument in found.argnames for found in caller.get_hookimpls())

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook; turn whatever it raises into a `TechniqueError` that names plugin, distribution and hook."""
        return self.guarded(hook, partial(getattr(self.hooks, hook), **arguments), list(arguments))

    def guarded(self, hook: str, work: Callable[[], Any], passed: Collection[str]) -> Any:
        """Do a part of what a hook does, as `call` does all of it; the hook was passed the arguments `passed`."""
        from toolkit.hooks.isolation import unchanged

        with unchanged(str(self), f"in {hook}"):
            try:
                return work()
            except ToolkitError as error:
                raise TechniqueRefusal(f"{self} refused in {hook}: {error}") from error
            except (Exception, SystemExit) as error:
                remedy = remedy_for(error, passed)
                raise TechniqueError(f"{self} failed in {hook} with {described(error)}; {remedy}") from error


def installed() -> list[Installed]:
    """Return all installed plugins, sorted by name; none is imported."""
    return sorted((Installed(point) for point in entry_points(GROUP)), key=lambda plugin: plugin.name)


def find(name: str, role: Role = "technique") -> Installed:
    """Return the installed plugin of this name; an `InputError` if there is none, or more than one."""
    plugins = installed()
    matches = [plugin for plugin in plugins if plugin.name == name]
    if not matches:
        hint = did_you_mean(name, (plugin.name for plugin in plugins if role in plugin.roles))
        raise InputError(f"no {KINDS[role]} '{name}' is installed{hint}")
    if len(matches) > 1:
        owners = " and ".join(sorted(plugin.distribution for plugin in matches))
        raise InputError(f"'{name}' is provided by both {owners}; uninstall one of them")
    return matches[0]


@cache
def load(name: str, role: Role = "technique") -> Plugin:
    """Import an installed plugin and check its hooks; a `ToolkitError` says what is wrong with the plugin."""
    plugin = find(name, role)
    module = _imported(plugin)
    return from_module(module, name, plugin.distribution, role)


def _imported(plugin: Installed) -> ModuleType:
    from toolkit.hooks.isolation import unchanged

    who = f"'{plugin.name}' ({plugin.distribution})"
    try:
        with unchanged(who, "when it was imported"):
            module: ModuleType = plugin.entry_point.load()
    except TechniqueError:
        sys.modules.pop(plugin.entry_point.module, None)  # otherwise the next import would succeed silently
        raise
    except (Exception, SystemExit) as error:
        remedy = _import_remedy(plugin, error)
        raise TechniqueError(f"{who} cannot be imported: {described(error)}; {remedy}") from error
    return module


def _import_remedy(plugin: Installed, error: BaseException) -> str:
    """Return what to do about a plugin that cannot be imported; what it alone needs is in an extra of its name."""
    dist = plugin.entry_point.dist
    if dist is None:
        return "uninstall it"
    if not isinstance(error, ModuleNotFoundError):
        return f"update or uninstall {dist.name}"
    extra = f"[{plugin.name}]" if plugin.name in dist.metadata.json.get("provides_extra", []) else ""
    return f"install what it needs with pip install '{dist.name}{extra}'"


def remedy_for(error: BaseException, passed: Collection[str | None]) -> str:
    """Return the advice that ends a sentence about an error in a plugin."""
    if isinstance(error, NameError) and error.name in passed:
        return f"take '{error.name}' as an argument"
    if isinstance(error, SystemExit):
        return "raise toolkit.TechniqueError for what cannot work"
    return "see the traceback in the run's log, or raise toolkit.TechniqueError for what cannot work"


def from_module(module: Any, name: str, distribution: str = "not installed", role: Role = "technique") -> Plugin:
    """Check the hooks of a module, or of an object with the same attributes, as `load` does."""
    plugin = f"'{name}' ({distribution})"
    others = {SPECIFICATIONS[other]: use for other, use in NAMED.items() if other != role}
    hookchecks.check_functions(module, plugin, SPECIFICATIONS[role], others)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(SPECIFICATIONS[role])
    hookchecks.register(manager, module, plugin)
    for hook in REQUIRED.get(role, ()):
        if not getattr(manager.hook, hook).get_hookimpls():
            raise TechniqueError(f"{plugin} has no hook {hook}, which a {KINDS[role]} requires; define it")
    params, numbers = hookchecks.checked_params(module, plugin), hookchecks.checked_numbers(module, plugin)
    source = _source(module.open) if role == "runtime" else ""
    return Plugin(name, distribution, module, params, manager.hook, numbers, source)


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # there is no file, or it is no Python function
        return ""
