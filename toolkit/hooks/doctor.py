"""Whether every installed plugin can be used, and how to mend one that cannot."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from toolkit.errors import ToolkitError
from toolkit.hooks.loading import KINDS, Installed, Plugin, Role, installed, load


@dataclass(frozen=True)
class Diagnosis:
    """The result of importing one plugin: what it can be used as, or one sentence about why it cannot.

    `roles` is what its source says that it is, even where it cannot be imported.
    """

    name: str
    distributions: tuple[str, ...]
    roles: frozenset[Role]
    usable: Mapping[Role, Plugin] = field(default_factory=dict)
    problem: str = ""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.problem:
            return f"broken  {self.problem}"
        roles = " and ".join(KINDS[role] for role in self.usable)
        return f"ok      '{self.name}' ({self.distributions[0]}), {roles}"


def diagnose(plugins: Iterable[Installed] | None = None) -> Iterator[Diagnosis]:
    """Import plugins one by one, by default all that are installed; a broken one does not stop the others."""
    owners: dict[str, list[Installed]] = {}
    for plugin in installed() if plugins is None else plugins:
        owners.setdefault(plugin.name, []).append(plugin)
    for name, owned in owners.items():
        roles = frozenset[Role]().union(*(plugin.roles for plugin in owned))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FutureWarning)
            usable, problem = _loaded(name, roles)
        said = tuple(str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning))
        distributions = tuple(plugin.distribution for plugin in owned)
        yield Diagnosis(name, distributions, roles, usable, problem, said)


def _loaded(name: str, roles: Collection[Role]) -> tuple[dict[Role, Plugin], str]:
    """Return what a plugin can be used as, or why it can be used as neither kind."""
    usable: dict[Role, Plugin] = {}
    problems: dict[Role, str] = {}
    for role in KINDS:
        try:
            usable[role] = load(name, role)
        except ToolkitError as error:
            problems[role] = str(error)
    if usable:
        return usable, ""
    return {}, problems[next((role for role in KINDS if role in roles), "technique")]
