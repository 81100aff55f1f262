"""The run-wide plugins of one run, told of everything that happens in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from toolkit.measured import named_measures
from toolkit.recipe import Recipe, Step
from toolkit.seeding import undisturbed
from toolkit.tasks import Data


class Observers:
    """Calls one hook of every plugin that has it; each plugin gets its own `params` and `prepared`."""

    def __init__(self, plugins: Iterable[Step]) -> None:
        self._plugins = list(plugins)
        self._prepared: list[Any] = [None] * len(self._plugins)

    def start(self, recipe: Recipe, directory: Path) -> None:
        """Call `on_start` and keep what it returns."""
        for position, plugin in enumerate(self._plugins):
            with undisturbed():
                self._prepared[position] = plugin.technique.call(
                    "on_start", params=plugin.params, recipe=recipe, directory=directory
                )

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call a hook that returns nothing."""
        with undisturbed():
            for plugin, prepared in zip(self._plugins, self._prepared, strict=True):
                if plugin.technique.implements(hook):
                    plugin.technique.call(hook, params=plugin.params, prepared=prepared, **arguments)

    def measure(self, model: nn.Module, data: Data) -> dict[str, Any]:
        """What the plugins measure of a row's model, by full name."""
        values: dict[str, Any] = {}
        for plugin, prepared in zip(self._plugins, self._prepared, strict=True):
            with undisturbed():
                values.update(named_measures(plugin, model, data, prepared))
        return values
