"""Measuring of a saved model, on the run's data or a different source."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolkit import model_files as artifact
from toolkit.data.shapes import logits_shape
from toolkit.data.splits import Data
from toolkit.errors import InputError, RecipeError
from toolkit.exports.manifest import MANIFEST
from toolkit.metrics.support.measurer import Measurer
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.problems import problems_of
from toolkit.report import Report
from toolkit.rows import Row
from toolkit.runner.assembly import make_data
from toolkit.runner.environment import describe
from toolkit.runner.evaluate_export import evaluate_export
from toolkit.sources import absolute_source, resolve
from toolkit.storage import run_directory as runs


def evaluate(
    directory: str | Path,
    data: str | None = None,
    *,
    task: str | None = None,
    allow: Sequence[str] = (),
    batch_size: int | None = None,
    budget_s: float = 5.0,
    trust: bool = False,
) -> Report:
    """Measure the model in a run directory, a stage's or an exported folder, and return a report with one row.

    Args:
        directory: folder with `model.safetensors` and `model.skeleton`, file of a packed model, or exported folder.
        data: data source; None for the run's. Required if the run's is Python code, because code that only a run
            directory names is never executed.
        task: task; None for the run's. Required, like `data`, if the run's is Python code.
        allow: sources of the custom classes in the network, e.g. `nets.py:Net`.
        batch_size: samples per batch; None for the run's.
        budget_s: time for the latency measurements, in seconds.
        trust: whether exported files may run native code.

    Raises:
        InputError: the model cannot be loaded, or data or task are missing or do not match it.
    """
    folder = Path(directory)
    if (folder / MANIFEST).is_file():
        samples = data_of_run(folder, data, task, batch_size)
        return _report(samples, evaluate_export(folder, samples, trust, budget_s))
    model = artifact.load(folder, [class_of(source) for source in allow])
    samples = data_of_run(folder, data, task, batch_size)
    try:
        logits_shape(model, samples)
    except InputError as error:
        raise InputError(f"the model in {folder} {error}") from error
    batch_sizes = sorted({1, samples.batch_size})
    with Measurer(model, samples, batch_sizes, budget_s, rows=1) as measurer:
        values = measurer.measure(model, folder)
    return _report(samples, Row(folder.resolve().name, values))


def _report(data: Data, row: Row) -> Report:
    return Report(name=row.stage, seed=0, rows=(row,), environment=describe(data.device), quality=data.quality)


def data_of_run(folder: Path, data: str | None = None, task: str | None = None, batch_size: int | None = None) -> Data:
    """Return the data of a run, or of another source; Python code is run only if it is passed."""
    return _data(_table(folder, data, task, batch_size))


def _table(folder: Path, data: str | None, task: str | None, batch_size: int | None) -> DataTable:
    content = _table_of_run(folder) if data is None else _table_of(absolute_source(data, Path()), folder)
    if task is not None:
        content["task"] = task
    _require_named(content, task)
    if batch_size is not None:
        content["batch_size"] = batch_size
    try:
        return DataTable.model_validate(content, context={"directory": Path()})
    except ValidationError as error:
        raise RecipeError(str(folder), [*problems_of(error, DataTable, "data")]) from None


def _require_named(content: dict[str, Any], task: str | None) -> None:
    """Raise an `InputError` if the run's task or transforms are Python code that the caller has not named."""
    recorded = content.get("task")
    if task is None and ":" in str(recorded or ""):
        raise InputError(f"the run's task is Python code, which runs only if you name it; pass --task {recorded}")
    for name in ("transform", "train_transform"):
        if name in content:
            raise InputError(
                f"the run's {name} is Python code, which never runs from {runs.RECIPE}; "
                "pass a function that returns the data with --data"
            )


def _table_of_run(folder: Path) -> dict[str, Any]:
    """Return the `[data]` table of the model's run; raise an `InputError` if its source is Python code."""
    content = _recorded(folder)
    source = content["source"]
    if ":" in str(source):
        raise InputError(f"the run's data is Python code, which runs only if you name it; pass --data {source}")
    return content


def _table_of(source: str, folder: Path) -> dict[str, Any]:
    """Return a `[data]` table for a source, with the run's batch size and task; all of it if it has that source."""
    try:
        recorded = _recorded(folder)
    except InputError:
        recorded = {}
    if ":" in source and recorded.get("source") == source:
        return recorded
    inherited = {key: value for key, value in recorded.items() if key in ("batch_size", "task")}
    return {"source": source, **inherited}


def _recorded(folder: Path) -> dict[str, Any]:
    """Return the `[data]` table in the recipe of the model's run."""
    folder = folder.parent if folder.is_file() else folder
    recipe = next((path for path in (folder / runs.RECIPE, folder / ".." / ".." / runs.RECIPE) if path.is_file()), None)
    if recipe is None:
        raise InputError(f"{folder} has no {runs.RECIPE}; name the data with --data")
    try:
        content = dict(tomllib.loads(recipe.read_text(encoding="utf-8"))["data"])
        content["source"]
        content.pop("metrics", None)  # Python code that the caller has not named
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{recipe} is not the recipe of a run; name the data with --data") from error
    return content


def _data(table: DataTable) -> Data:
    try:
        return make_data(table)
    except (InputError, ValueError) as error:
        raise InputError(f"data: {error}") from error


def class_of(source: str) -> type:
    """Return the class that a value of `--allow` names, in a file or an importable module."""
    try:
        target = resolve(absolute_source(source, Path()), "model")
    except ValueError as error:
        raise InputError(f"--allow: {error}") from error
    if not isinstance(target, type):
        raise InputError(f"--allow: '{source}' must be a class, found {type(target).__name__}")
    return target
