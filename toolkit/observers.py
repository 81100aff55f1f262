"""The run-wide plugins of one run, told of everything that happens in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from toolkit.errors import TechniqueError, ToolkitError
from toolkit.measured import named_measures
from toolkit.promises.fingerprint import changes, fingerprint
from toolkit.recipe import Recipe, Step
from toolkit.seeding import undisturbed
from toolkit.tasks import Data

log = logging.getLogger("toolkit")


class Observers:
    """Calls one hook of every plugin that has it; each plugin gets its own `params` and `prepared`."""

    def __init__(self, plugins: Iterable[Step]) -> None:
        self._plugins = list(plugins)
        self._prepared: list[Any] = [None] * len(self._plugins)
        self._started = 0

    def start(self, recipe: Recipe, directory: Path) -> None:
        """Call `on_start` and keep what it returns."""
        for position, plugin in enumerate(self._plugins):
            with undisturbed():
                self._prepared[position] = plugin.technique.call(
                    "on_start", params=plugin.params, recipe=recipe, directory=directory
                )
            self._started = position + 1

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call a hook that returns nothing."""
        with undisturbed():
            for plugin, prepared in zip(self._plugins, self._prepared, strict=True):
                if plugin.technique.implements(hook):
                    plugin.technique.call(hook, params=plugin.params, prepared=prepared, **arguments)

    def measure(self, model: nn.Module, data: Data) -> dict[str, Any]:
        """What the plugins measure of a row's model, by full name; a `TechniqueError` where one of them changes it."""
        values: dict[str, Any] = {}
        before = fingerprint(model)
        for plugin, prepared in zip(self._plugins, self._prepared, strict=True):
            if plugin.technique.implements("measure"):
                with undisturbed():
                    values.update(named_measures(plugin, model, data, prepared))
                for change in changes(before, fingerprint(model)):
                    raise TechniqueError(
                        f"{plugin.technique} changed the row's model in measure at '{change.layer}': "
                        f"work on toolkit.masks.clone(model)"
                    )
        return values

    @contextmanager
    def told_of_failure(self, directory: Path) -> Iterator[None]:
        """Whatever ends the run early, an interruption included, is told to the plugins that have started."""
        try:
            yield
        except BaseException as error:
            for plugin, prepared in list(zip(self._plugins, self._prepared, strict=True))[: self._started]:
                if plugin.technique.implements("on_failure"):
                    try:
                        plugin.technique.call(
                            "on_failure", params=plugin.params, prepared=prepared, error=error, directory=directory
                        )
                    except ToolkitError as another:  # what ended the run is what its user has to read
                        log.warning("%s", another)
            raise
