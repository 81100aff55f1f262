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
from toolkit.recipe.read import PluginUse, Recipe, Stage
from toolkit.report import Report
from toolkit.runner.technique_numbers import named_measures
from toolkit.seeding import preserve_generators
from toolkit.training import OnStep

log = logging.getLogger("toolkit")


class Observers:
    """Calls one hook of every plugin that has it; each plugin gets its own `params` and `prepared`."""

    def __init__(self, plugins: Iterable[PluginUse]) -> None:
        self._plugins = list(plugins)
        self._prepared: list[Any] = [None] * len(self._plugins)
        self._open: set[int] = set()  # positions of those that have started and not been told of the end

    @property
    def uses(self) -> list[PluginUse]:
        """The plugins with their params."""
        return list(self._plugins)

    def start(self, recipe: Recipe, directory: Path) -> None:
        """Call `on_start` and keep what it returns."""
        for position, observer in enumerate(self._plugins):
            with preserve_generators():
                self._prepared[position] = observer.plugin.call(
                    "on_start", params=observer.params, recipe=recipe, directory=directory
                )
            self._open.add(position)

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call a hook that returns nothing."""
        with preserve_generators():
            for observer, prepared in zip(self._plugins, self._prepared, strict=True):
                if observer.plugin.implements(hook):
                    observer.plugin.call(hook, params=observer.params, prepared=prepared, **arguments)

    def on_step(self, stage: Stage, record: list[tuple[float, float]] | None = None) -> OnStep:
        """Return what a training calls after each step: it tells the plugins, and appends loss and lr to a record."""

        def on_step(step: int, steps: int, loss: float, lr: float) -> None:
            if record is not None:
                record.append((loss, lr))
            self.tell("on_step", stage=stage, step=step, steps=steps, loss=loss, lr=lr)

        return on_step

    def end(self, report: Report, directory: Path) -> None:
        """Call `on_end`, once: who has been told of the end is not told of a failure of another one."""
        for position, (observer, prepared) in enumerate(zip(self._plugins, self._prepared, strict=True)):
            self._open.discard(position)
            if observer.plugin.implements("on_end"):
                with preserve_generators():
                    observer.plugin.call(
                        "on_end", params=observer.params, prepared=prepared, report=report, directory=directory
                    )

    def measure(self, model: nn.Module, data: Data) -> dict[str, Any]:
        """Return what the plugins measure of a row's model, by full name; a `TechniqueError` if one changes it."""
        pairs = zip(self._plugins, self._prepared, strict=True)
        measuring = [pair for pair in pairs if pair[0].plugin.implements("measure")]
        before = fingerprint(model) if measuring else {}
        values: dict[str, Any] = {}
        for observer, prepared in measuring:
            with preserve_generators():
                values.update(named_measures(observer, model, data, prepared))
            for change in changes(before, fingerprint(model)):
                raise TechniqueError(
                    f"{observer.plugin} changed the row's model in measure at '{change.layer}'; "
                    "measure on toolkit.masks.clone(model)"
                )
        return values

    @contextmanager
    def told_of_failure(self, directory: Path) -> Iterator[None]:
        """Report what ends the run early, an interruption included, to the plugins that have not finished."""
        try:
            yield
        except BaseException as error:
            for position in sorted(self._open):
                self._tell_of_failure(self._plugins[position], self._prepared[position], error, directory)
            raise

    @staticmethod
    def _tell_of_failure(observer: PluginUse, prepared: Any, error: BaseException, directory: Path) -> None:
        if observer.plugin.implements("on_failure"):
            try:
                observer.plugin.call(
                    "on_failure", params=observer.params, prepared=prepared, error=error, directory=directory
                )
            except ToolkitError as another:  # what ended the run is what its user has to read
                log.warning("%s", another)
