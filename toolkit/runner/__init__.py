"""The order of a run: the baseline, then the hooks, the training and the row of each stage."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import InputError
from toolkit.interruption import stopping_on_signals
from toolkit.recipe.read import PluginUse, Recipe, read_recipe
from toolkit.report import Report
from toolkit.runner.assembly import assemble, check_weight_files
from toolkit.runner.environment import describe, fixed_threads, warn_about_machine
from toolkit.runner.exclusive import only_run
from toolkit.runner.first_batch import rehearse_first_batch
from toolkit.runner.in_progress import RunInProgress
from toolkit.storage import run_directory as runs
from toolkit.storage.cache import Cache, stages_folder
from toolkit.storage.identity import result_keys, run_identity
from toolkit.storage.resume import StageStore

log = logging.getLogger("toolkit")


def run(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    observers: Iterable[PluginUse] = (),
    cache: bool = True,
    rehearsal: bool = True,
) -> Report:
    """Run a recipe, write the model and the report to the run directory, and return the report.

    Before trainings of more than `first_batch.THRESHOLD_S` seconds together, by an estimate, every stage runs on one
    batch first, so that a mistake in a late stage is found at once.

    If the directory contains an unfinished run of the same recipe, resume it. SIGINT and SIGTERM stop a run at its next
    step, with a checkpoint; a second signal stops it immediately.

    Args:
        recipe: path of a file, name of a shipped recipe, or result of `read_recipe`.
        overrides: new values by place, e.g. `{"stages.1.params.sparsity": 0.9}`.
        output: run directory; None for `runs/<name of the recipe>`.
        overwrite: whether to replace an existing run directory.
        observers: run-wide plugins in addition to those of the recipe.
        cache: whether to reuse stage results of earlier runs from the user's cache, and store new ones.
        rehearsal: whether to run every stage on one batch before a long training; never done on resuming.

    Raises:
        RecipeError: the recipe has mistakes; nothing is written.
        InputError: the run directory cannot be used, or a different thread of this process is running a recipe.
        ToolkitError: a stage failed; the results of earlier stages stay in the run directory.
        Interrupted: a signal stopped the run (a `KeyboardInterrupt`); call `run` again to resume.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, overrides)
    elif overrides:
        raise InputError("overrides require the path or name of a recipe; pass them to read_recipe")
    path = Path(output) if output is not None else Path("runs") / recipe.name
    runs.RunDirectory.clean_up(path)
    runs.RunDirectory.check_available(path, overwrite)
    check_weight_files(recipe, path)
    with only_run(), fixed_threads(recipe.table.threads) as threads:
        assembly = assemble(recipe)
        environment = describe(assembly.data.device)
        identity = run_identity(recipe, assembly.data, environment)
        results = Cache(stages_folder() if cache else None)
        if rehearsal and (overwrite or not runs.RunDirectory.is_unfinished(path)):
            rehearse_first_batch(recipe, assembly, results.missing(result_keys(recipe, identity)))
        with (
            runs.RunDirectory.acquire(path, identity, overwrite) as directory,
            runs.logging_to(directory, log),
            stopping_on_signals() as stop,
        ):
            warn_about_machine(threads, in_recipe=recipe.table.threads is not None)
            store = StageStore(directory, recipe, identity, results, stop)
            return RunInProgress(recipe, assembly, directory, observers, environment, store, stop).execute()
