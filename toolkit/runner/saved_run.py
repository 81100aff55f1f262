"""The models and the data of a finished run, opened with the Python code that the caller names."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from toolkit import model_files as artifact
from toolkit.data.splits import Data
from toolkit.errors import HINT, ArtifactError, InputError, RecipeError
from toolkit.importing import absolute_source
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.problems import problems_of
from toolkit.runner.assembly import make_data
from toolkit.runner.missing_classes import allow_options
from toolkit.storage import run_directory as runs


@dataclass(frozen=True)
class NamedCode:
    """The Python code that a caller names, as sources; no other code of a run is executed.

    Attributes:
        allow: what the networks consist of, as for `toolkit.load`.
        data: data source; None for the run's.
        task: task; None for the run's.
    """

    allow: Sequence[str] = ()
    data: str | None = None
    task: str | None = None

    @property
    def options(self) -> list[str]:
        """The options of the command line that name this code."""
        allow = [word for source in self.allow for word in ("--allow", source)]
        data = ["--data", self.data] if self.data is not None else []
        return [*allow, *data, *(["--task", self.task] if self.task is not None else [])]


def open_run(
    folder: Path, models: Sequence[Path], named: NamedCode, command: Sequence[str], batch_size: int | None = None
) -> tuple[list[nn.Module], Data]:
    """Return models of a run, and its data or those that the caller names.

    Args:
        folder: run directory, folder of one of its stages, or packed file.
        models: folders or files of the models.
        named: the code that may be executed.
        command: words of a command line, for the error.
        batch_size: samples per batch; None for the run's.

    Raises:
        InputError: something cannot be read, or needs code that is not named. The error lists all such code, and ends
            with the command that names it.
    """
    opened, refusals = _open(models, named.allow)
    content = _content(folder, named.data)
    if named.task is not None:
        content["task"] = named.task
    unnamed = _unnamed(content, named)
    if refusals or unnamed:
        options = [*allow_options(refusals, folder), *(word for option in unnamed for word in option)]
        raise InputError(_missing(refusals, unnamed, [*command, *named.options, *options] if options else []))
    return opened, _data(_table(content, folder, batch_size))


def _open(paths: Sequence[Path], allow: Sequence[str]) -> tuple[list[nn.Module], list[ArtifactError]]:
    """Return the models, and the errors of those with classes that are not allowed."""
    models, refusals = [], []
    for path in paths:
        try:
            models.append(artifact.load(path, allow))
        except ArtifactError as error:
            if not error.unknown:
                raise
            refusals.append(error)
    return models, refusals


def _missing(refusals: Sequence[ArtifactError], unnamed: Sequence[tuple[str, str]], command: Sequence[str]) -> str:
    lines = [str(refusals[0])] if refusals else []
    for option, source in unnamed:
        kind = option.removeprefix("--")
        lines.append(f"the run's {kind} is Python code, which runs only if you name it; pass {option} {source}")
    if command:
        lines.append(f"{HINT}if the code is yours, run: {shlex.join(command)}")
    return "\n".join(lines)


def _content(folder: Path, data: str | None) -> dict[str, Any]:
    """Return the `[data]` table of the run, or one for another source, with the run's batch size and task."""
    if data is None:
        return _recorded(folder)
    source = absolute_source(data, Path())
    try:
        recorded = _recorded(folder)
    except InputError:
        recorded = {}
    if ":" in source and recorded.get("source") == source:
        return recorded
    inherited = {key: value for key, value in recorded.items() if key in ("batch_size", "task")}
    return {"source": source, **inherited}


def _unnamed(content: dict[str, Any], named: NamedCode) -> list[tuple[str, str]]:
    """Return option and source of the run's data and task if they are Python code that the caller has not named.

    Raises:
        InputError: the run has transforms, which no option names.
    """
    for name in ("transform", "train_transform"):
        if name in content:
            raise InputError(
                f"the run's {name} is Python code, which never runs from {runs.RECIPE}; "
                "pass a function that returns the data with --data"
            )
    recorded = [("--data", content["source"], named.data), ("--task", content.get("task") or "", named.task)]
    return [(option, str(source)) for option, source, name in recorded if name is None and ":" in str(source)]


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


def _table(content: dict[str, Any], folder: Path, batch_size: int | None) -> DataTable:
    changed = content if batch_size is None else {**content, "batch_size": batch_size}
    try:
        return DataTable.model_validate(changed, context={"directory": Path()})
    except ValidationError as error:
        raise RecipeError(str(folder), [*problems_of(error, DataTable, "data")]) from None


def _data(table: DataTable) -> Data:
    try:
        return make_data(table)
    except (InputError, ValueError) as error:
        raise InputError(f"data: {error}") from error
