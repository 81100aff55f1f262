"""Whether every installed plugin can be used; of one that cannot, what is wrong and how to mend it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from toolkit.errors import ToolkitError
from toolkit.hooks.checks import hook_names
from toolkit.hooks.loading import Installed, Plugin, Role, find, installed, load
from toolkit.hooks.specs import ObserverHooks, TechniqueHooks

ROLES: dict[Role, str] = {"technique": "technique", "observer": "run-wide plugin"}


@dataclass(frozen=True)
class Diagnosis:
    """What came of importing one plugin: what it can be used as, or one sentence about why it cannot."""

    name: str
    distributions: tuple[str, ...]
    usable: Mapping[Role, Plugin] = field(default_factory=dict)
    problem: str = ""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.problem:
            return f"broken  {self.problem}"
        roles = " and ".join(ROLES[role] for role in self.usable)
        return f"ok      '{self.name}' ({self.distributions[0]}), {roles}"


def diagnose(plugins: Iterable[Installed] | None = None) -> Iterator[Diagnosis]:
    """Import the plugins (by default all that are installed) one by one; none that is broken stops the others."""
    owners: dict[str, list[str]] = {}
    for plugin in installed() if plugins is None else plugins:
        owners.setdefault(plugin.name, []).append(plugin.distribution)
    for name, distributions in owners.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FutureWarning)
            usable, problem = _loaded(name)
        said = tuple(str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning))
        yield Diagnosis(name, tuple(distributions), usable, problem, said)


def _loaded(name: str) -> tuple[dict[Role, Plugin], str]:
    """What a plugin can be used as; nothing, and why, where it can be used as neither kind."""
    usable: dict[Role, Plugin] = {}
    problems: dict[Role, str] = {}
    for role in ROLES:
        try:
            usable[role] = load(name, role)
        except ToolkitError as error:
            problems[role] = str(error)
    if usable:
        return usable, ""
    return {}, problems["observer" if _observes(name) else "technique"]


def _observes(name: str) -> bool:
    """Whether a plugin that was imported has functions that only a run-wide plugin has."""
    try:
        module = sys.modules.get(find(name).entry_point.module)
    except ToolkitError:
        return False
    return any(hasattr(module, hook) for hook in hook_names(ObserverHooks) - hook_names(TechniqueHooks))
