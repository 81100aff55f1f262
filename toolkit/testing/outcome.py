"""A recipe run in a test: what came of it, without a subprocess, and without an exception."""

from __future__ import annotations

import contextlib
import io
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w
from torch import nn

from toolkit import model_files as artifact
from toolkit.errors import ToolkitError
from toolkit.recipe.read import parse_recipe
from toolkit.report import Report
from toolkit.rows import Row
from toolkit.runner import run
from toolkit.storage.run_directory import LOG

# What a recipe of a test need not say.
TOYS: dict[str, Any] = {
    "model": {"source": "toolkit.testing:toy_mlp", "training": {"epochs": 2, "lr": 1e-2}},
    "data": {"source": "toolkit.testing:toy_data"},
    "measure": {"budget": 0.1},
    "threads": 1,
}


@dataclass(frozen=True)
class Outcome:
    """What `toolkit run` would have left and said.

    `report` is None if the run failed, `error` the sentence that the command prints then, else empty; `exit_code` is
    the command's: 0, 1 for a failure, 2 for a mistake in what was given.
    """

    directory: Path
    report: Report | None
    error: str
    exit_code: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the report, the baseline first; an `AssertionError` with the run's error if there is none."""
        assert self.report is not None, self.error
        return self.report.rows

    @cached_property
    def model(self) -> nn.Module:
        """The artifact, loaded."""
        assert not self.error, self.error
        return artifact.load(self.directory)

    @property
    def log(self) -> str:
        """The run's log, with the traceback of an error; empty where nothing was run."""
        path = self.directory / LOG
        return path.read_text(encoding="utf-8") if path.is_file() else ""


def run_text(text: str, folder: Path, tables: Mapping[str, Any] | None = None, *, output: str = "run") -> Outcome:
    """Run a recipe in `folder`, where relative files of it lie too, and return what came of it.

    Args:
        text: TOML; a table `[model]`, `[data]` or `[measure]` that it lacks is that of a toy.
        folder: an existing folder, `tmp_path` in a test.
        tables: tables to add, such as `{"plugins": [{"name": "tensorboard"}]}`.
        output: the name of the run directory within `folder`.

    Raises:
        Exception: whatever is not a `ToolkitError`, which is a bug of the toolkit.
    """
    directory, stdout, stderr = folder / output, io.StringIO(), io.StringIO()
    report, error, exit_code = None, "", 0
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            report = run(
                parse_recipe(_filled(text, tables or {}), "recipe.toml", folder), output=directory, cache=False
            )
        except ToolkitError as problem:
            error, exit_code = str(problem), problem.exit_code
    return Outcome(directory, report, error, exit_code, stdout.getvalue(), stderr.getvalue())


def _filled(text: str, tables: Mapping[str, Any]) -> str:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return text  # to be refused
    return tomli_w.dumps({**TOYS, **content, **tables})
