"""The run-wide plugins of one run, told of everything that happens in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError, ToolkitError
from toolkit.promises.fingerprint import changes, fingerprint
from toolkit.recipe.read import Recipe, Step
from toolkit.report import Report
from toolkit.runner.technique_numbers import named_measures
from toolkit.seeding import preserve_generators

log = logging.getLogger("toolkit")


class Observers:
    """Calls one hook of every plugin that has it; each plugin gets its own `params` and `prepared`."""

    def __init__(self, plugins: Iterable[Step]) -> None:
        self._plugins = list(plugins)
        self._prepared: list[Any] = [None] * len(self._plugins)
        self._open: set[int] = set()  # positions of those that have started and not been told of the end

    def start(self, recipe: Recipe, directory: Path) -> None:
        """Call `on_start` and keep what it returns."""
        for position, plugin in enumerate(self._plugins):
            with preserve_generators():
                self._prepared[position] = plugin.technique.call(
                    "on_start", params=plugin.params, recipe=recipe, directory=directory
                )
            self._open.add(position)

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call a hook that returns nothing."""
        with preserve_generators():
            for plugin, prepared in zip(self._plugins, self._prepared, strict=True):
                if plugin.technique.implements(hook):
                    plugin.technique.call(hook, params=plugin.params, prepared=prepared, **arguments)

    def end(self, report: Report, directory: Path) -> None:
        """Call `on_end`, once: who has been told of the end is not told of a failure of another one."""
        for position, (plugin, prepared) in enumerate(zip(self._plugins, self._prepared, strict=True)):
            self._open.discard(position)
            if plugin.technique.implements("on_end"):
                with preserve_generators():
                    plugin.technique.call(
                        "on_end", params=plugin.params, prepared=prepared, report=report, directory=directory
                    )

    def measure(self, model: nn.Module, data: Data) -> dict[str, Any]:
        """What the plugins measure of a row's model, by full name; a `TechniqueError` where one of them changes it."""
        pairs = zip(self._plugins, self._prepared, strict=True)
        measuring = [pair for pair in pairs if pair[0].technique.implements("measure")]
        before = fingerprint(model) if measuring else {}
        values: dict[str, Any] = {}
        for plugin, prepared in measuring:
            with preserve_generators():
                values.update(named_measures(plugin, model, data, prepared))
            for change in changes(before, fingerprint(model)):
                raise TechniqueError(
                    f"{plugin.technique} changed the row's model in measure at '{change.layer}': "
                    f"work on toolkit.masks.clone(model)"
                )
        return values

    @contextmanager
    def told_of_failure(self, directory: Path) -> Iterator[None]:
        """Whatever ends the run early, an interruption included, is told to the plugins that are not done with it."""
        try:
            yield
        except BaseException as error:
            for position in sorted(self._open):
                self._tell_of_failure(self._plugins[position], self._prepared[position], error, directory)
            raise

    @staticmethod
    def _tell_of_failure(plugin: Step, prepared: Any, error: BaseException, directory: Path) -> None:
        if plugin.technique.implements("on_failure"):
            try:
                plugin.technique.call(
                    "on_failure", params=plugin.params, prepared=prepared, error=error, directory=directory
                )
            except ToolkitError as another:  # what ended the run is what its user has to read
                log.warning("%s", another)
