"""Stage results that a run can reuse: from its own checkpoints, and from the cache that all runs share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from toolkit.importing import imported_files, is_below
from toolkit.interruption import Stop
from toolkit.recipe.read import Recipe
from toolkit.sources import models_in
from toolkit.storage.cache import Cache, mark_used
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.identity import measuring_key, result_keys
from toolkit.storage.record import DamagedError
from toolkit.storage.results import Result, pack_result, read_result
from toolkit.storage.run_directory import CHECKPOINT, RunDirectory

log = logging.getLogger("toolkit")


class StageStore:
    """The stored results of a run's stages, by stage number; new results go to the run directory and the cache."""

    def __init__(
        self, directory: RunDirectory, recipe: Recipe, identity: Mapping[str, Any], cache: Cache, stop: Stop
    ) -> None:
        self._directory, self._cache, self._stop = directory, cache, stop
        self._keys = result_keys(recipe, identity)
        self.measuring_key = measuring_key(recipe, identity)
        self._trusted, self._sources = _trusted_modules(recipe), _python_sources(recipe)
        self._titles = [f"{recipe.name}: {name}" for name in ("baseline", *(stage.name for stage in recipe.stages))]

    def from_checkpoint(self, number: int, model: nn.Module) -> Result | None:
        """Return a result that this run saved before it was interrupted; `model` is the recipe's model."""
        path = self._directory.path / CHECKPOINT / _file_name(number)
        return self._read(path, self._key(number), model) if path.is_file() else None

    def from_cache(self, number: int, model: nn.Module) -> Result | None:
        """Return a result that another run stored in the cache; `model` is the recipe's model."""
        path = self._cache.path(self._keys[number])
        if path is None or not path.is_file():
            return None
        result = self._read(path, self._key(number), model)
        if result is None:
            return None
        mark_used(path)
        return replace(result, reused=True)

    def computing(self, number: int) -> AbstractContextManager[object]:
        """Keep other runs from computing the same result; wait first if one of them already does."""
        return self._cache.computing(self._keys[number], self._on_wait(number))

    def _on_wait(self, number: int) -> Callable[[], None]:
        """Return a function that stops on a signal, and reports at its first call that the run waits."""
        title = self._titles[number]
        messages = iter([f"{title}: waiting for another run that computes the same stage"])

        def on_wait() -> None:
            for message in messages:
                log.warning("%s", message)
            self._stop.check()

        return on_wait

    def save(self, number: int, result: Result) -> None:
        """Save the result of a finished stage, and delete the checkpoints of its training."""
        content = pack_result(result, self._key(number), self._titles[number]).write
        self._directory.write(f"{CHECKPOINT}/{_file_name(number)}", content)
        if not result.reused:
            self._cache.write(self._keys[number], content)
        for path in (self._directory.path / CHECKPOINT).glob("training-*"):
            path.unlink(missing_ok=True)

    def training_checkpoints(self, number: int) -> TrainingCheckpoints:
        """Return the checkpoints of a stage's training."""
        return TrainingCheckpoints(self._directory, self._key(number), self._stop)

    def finish(self) -> None:
        """Mark the run as finished; it cannot be resumed any more."""
        self._directory.finish()

    def _key(self, number: int) -> str:
        # A result without a key is only ever read by this run, whose recipe is known to be the same.
        return self._keys[number] or f"row {number}"

    def _read(self, path: Path, key: str, model: nn.Module) -> Result | None:
        classes = {parametrize.type_before_parametrizations(module) for module in model.modules()}
        try:
            return read_result(path, key, [*sorted(classes, key=str), *self._sources], self._trusted)
        except DamagedError as error:
            log.warning("%s; computing the stage again", error)
            return None


def _file_name(number: int) -> str:
    return f"row-{number}.record"


def _python_sources(recipe: Recipe) -> list[str]:
    """Return the sources of the recipe's models that are no built-in names; this process has called them already."""
    models = [source for stage in recipe.stages for use in stage.uses for _, source in models_in(use.params)]
    return [table.source for table in (recipe.model, *models) if ":" in table.source]


def _trusted_modules(recipe: Recipe) -> list[str]:
    """Return the modules that the recipe's sources were imported from, which this process has executed already."""
    places = [source.rpartition(":")[0] for source in _python_sources(recipe)]
    packages = [name.partition(".")[0] for name in places if not name.endswith(".py")]
    folders = {Path(file).parent for file in imported_files()}
    local_modules = [
        name
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None))
        and "site-packages" not in file
        and any(is_below(file, folder) for folder in folders)
    ]
    return [*packages, *local_modules]
