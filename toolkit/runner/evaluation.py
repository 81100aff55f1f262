"""A saved model measured again, on the run's data or another source."""

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
from toolkit.metrics.support.measurer import Measurer
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.problems import problems_of
from toolkit.report import Report
from toolkit.rows import Row
from toolkit.runner.assembly import make_data
from toolkit.runner.environment import describe
from toolkit.sources import beside, resolve
from toolkit.storage import run_directory as runs


def evaluate(
    directory: str | Path,
    data: str | None = None,
    *,
    task: str | None = None,
    allow: Sequence[str] = (),
    batch_size: int | None = None,
    budget_s: float = 5.0,
) -> Report:
    """Measure the model in a run directory or a stage's folder; the report has one row.

    Args:
        directory: where `model.safetensors` and `model.skeleton` lie, or the file of a packed model.
        data: a data source instead of the run's. Where the run's is Python code it has to be given, because
            nothing that a run directory names is executed.
        task: what the data is measured by, instead of the run's; to be given like `data` where that is Python code.
        allow: sources of the classes of your own that the network consists of, such as `nets.py:Net`.
        batch_size: samples a batch, by default the run's.
        budget_s: seconds for the timing.
    """
    folder = Path(directory)
    model = artifact.load(folder, [class_of(source) for source in allow])
    samples = data_of_run(folder, data, task, batch_size)
    try:
        logits_shape(model, samples)
    except InputError as error:
        raise InputError(f"the model in {folder} {error}") from error
    batch_sizes = sorted({1, samples.batch_size})
    with Measurer(model, samples, batch_sizes, budget_s, rows=1) as measurer:
        values = measurer.measure(model, folder)
    name = folder.resolve().name
    row = Row(name, values)
    return Report(name=name, seed=0, rows=(row,), environment=describe(samples.device), quality=samples.quality)


def data_of_run(folder: Path, data: str | None = None, task: str | None = None, batch_size: int | None = None) -> Data:
    """Return the data of a run, or of another source; Python code is run only if it is passed."""
    return _data(_table(folder, data, task, batch_size))


def _table(folder: Path, data: str | None, task: str | None, batch_size: int | None) -> DataTable:
    content = _table_of_run(folder) if data is None else _table_of(beside(data, Path()), folder)
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
    """Refuse Python code that a run names besides its data, and nobody who asks for the evaluation."""
    own = content.get("task")
    if task is None and ":" in str(own or ""):
        raise InputError(f"the run's task is Python code, which is run only if you name it: --task {own}")
    for name in ("transform", "train_transform"):
        if name in content:
            raise InputError(
                f"the run's {name} is Python code, which is not run from {runs.RECIPE}: "
                "name a function that returns the data with --data"
            )


def _table_of_run(folder: Path) -> dict[str, Any]:
    """The `[data]` table of the run that left the model, if it names a built-in source."""
    content = _recorded(folder)
    source = content["source"]
    if ":" in str(source):
        raise InputError(f"the run's data is Python code, which is run only if you name it: --data {source}")
    return content


def _table_of(source: str, folder: Path) -> dict[str, Any]:
    """A `[data]` table for another source, with what the run says of batches; the run's if it names the same code."""
    try:
        recorded = _recorded(folder)
    except InputError:
        recorded = {}
    if ":" in source and recorded.get("source") == source:
        return recorded
    kept = {key: value for key, value in recorded.items() if key in ("batch_size", "task")}
    return {"source": source, **kept}


def _recorded(folder: Path) -> dict[str, Any]:
    """The `[data]` table in the recipe of the run that left the model."""
    folder = folder.parent if folder.is_file() else folder
    recipe = next((path for path in (folder / runs.RECIPE, folder / ".." / ".." / runs.RECIPE) if path.is_file()), None)
    if recipe is None:
        raise InputError(f"{folder} has no {runs.RECIPE}: name the data with --data")
    try:
        content = dict(tomllib.loads(recipe.read_text(encoding="utf-8"))["data"])
        content["source"]
        content.pop("metrics", None)  # Python code, which nobody has named
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{recipe} is not the recipe of a run: name the data with --data") from error
    return content


def _data(table: DataTable) -> Data:
    try:
        return make_data(table)
    except (InputError, ValueError) as error:
        raise InputError(f"data: {error}") from error


def class_of(source: str) -> type:
    """The class that `--allow` names, as files of a user's own and importable modules have it."""
    try:
        found = resolve(beside(source, Path()), "model")
    except ValueError as error:
        raise InputError(f"--allow: {error}") from error
    if not isinstance(found, type):
        raise InputError(f"--allow takes the source of a class, '{source}' is a {type(found).__name__}")
    return found
