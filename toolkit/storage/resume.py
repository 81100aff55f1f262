"""What one run can go on from: its own checkpoints, and what other runs left in the cache."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from toolkit.interruption import Stop
from toolkit.recipe.read import Recipe
from toolkit.sources import imported_files, models_in
from toolkit.storage.cache import Cache, mark_used
from toolkit.storage.checkpoints import TrainingKeeper
from toolkit.storage.identity import measuring_key, result_keys
from toolkit.storage.record import DamagedError
from toolkit.storage.results import Result, pack_result, read_result
from toolkit.storage.run_directory import CHECKPOINT, RunDirectory

log = logging.getLogger("toolkit")


class Kept:
    """Looks for the result of a stage in the run directory and then in the cache, and keeps new ones in both."""

    def __init__(
        self, directory: RunDirectory, recipe: Recipe, identity: Mapping[str, Any], cache: Cache, stop: Stop
    ) -> None:
        self._directory, self._cache, self._stop = directory, cache, stop
        self._keys = result_keys(recipe, identity)
        self.measuring = measuring_key(recipe, identity)
        self._trusted = _trusted(recipe)
        self._titles = [f"{recipe.name}: {name}" for name in ("baseline", *(stage.name for stage in recipe.stages))]

    def own(self, number: int, model: nn.Module) -> Result | None:
        """What this run had already finished before it was interrupted; `model` is the recipe's."""
        path = self._directory.path / CHECKPOINT / _name(number)
        return self._read(path, self._key(number), model) if path.is_file() else None

    def cached(self, number: int, model: nn.Module) -> Result | None:
        """What another run left in the cache."""
        path = self._cache.path(self._keys[number])
        if path is None or not path.is_file():
            return None
        found = self._read(path, self._key(number), model)
        if found is not None:
            mark_used(path)
        return None if found is None else replace(found, reused=True)

    def computing(self, number: int) -> AbstractContextManager[object]:
        """Inside, no other run computes the same: one that does so already is waited for."""
        return self._cache.computing(self._keys[number], self._stop.here)

    def keep(self, number: int, result: Result) -> None:
        """Write a finished stage, after which nothing of its training is needed."""
        content = pack_result(result, self._key(number), self._titles[number])
        self._directory.write(f"{CHECKPOINT}/{_name(number)}", content)
        if not result.reused:
            self._cache.write(self._keys[number], content)
        for path in (self._directory.path / CHECKPOINT).glob("training-*"):
            path.unlink(missing_ok=True)

    def keeper(self, number: int) -> TrainingKeeper:
        """What keeps the training of a stage."""
        return TrainingKeeper(self._directory, self._key(number), self._stop)

    def finish(self) -> None:
        """The run is complete, and nobody is going to continue it."""
        self._directory.finish()

    def _key(self, number: int) -> str:
        # Without a key only this run, whose recipe is known to be the same, can use what is kept.
        return self._keys[number] or f"row {number}"

    def _read(self, path: Path, key: str, model: nn.Module) -> Result | None:
        classes = {parametrize.type_before_parametrizations(module) for module in model.modules()}
        try:
            return read_result(path, key, sorted(classes, key=str), self._trusted)
        except DamagedError as error:
            log.warning("%s: it is computed again", error)
            return None


def _name(number: int) -> str:
    return f"row-{number}.record"


def _trusted(recipe: Recipe) -> list[str]:
    """The modules that the recipe's sources were imported from: it names them, so they have been executed anyway."""
    models = [source for stage in recipe.stages for step in stage.steps for _, source in models_in(step.params)]
    named = [table.source.rpartition(":")[0] for table in (recipe.model, *models) if ":" in table.source]
    packages = [name.partition(".")[0] for name in named if not name.endswith(".py")]
    folders = [Path(file).parent for file in imported_files()]
    beside = [
        name
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None))
        and "site-packages" not in file
        and any(Path(file).is_relative_to(folder) for folder in folders)
    ]
    return [*packages, *beside]
