"""Recipes run in a test, in its process; a run that fails returns its error."""

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

# Tables for recipes that lack them.
DEFAULT_TABLES: dict[str, Any] = {
    "model": {"source": "toolkit.testing:toy_mlp", "training": {"epochs": 2, "lr": 1e-2}},
    "data": {"source": "toolkit.testing:toy_data"},
    "measure": {"budget": 0.1},
    "threads": 1,
}


@dataclass(frozen=True)
class Outcome:
    """The result of a run, as `toolkit run` would have left and printed it.

    Attributes:
        directory: run directory.
        report: report of the run, None if the run failed.
        error: sentence that the command prints if the run fails, else empty.
        exit_code: exit code of the command: 0, 1 for a failure, 2 for bad input.
        stdout: text printed to stdout.
        stderr: text printed to stderr.
    """

    directory: Path
    report: Report | None
    error: str
    exit_code: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> tuple[Row, ...]:
        """Rows of the report, the baseline first; an `AssertionError` with the error of a run that failed."""
        assert self.report is not None, self.error
        return self.report.rows

    @cached_property
    def model(self) -> nn.Module:
        """The final model, loaded from the run directory."""
        assert not self.error, self.error
        return artifact.load(self.directory)

    @property
    def log(self) -> str:
        """Log of the run, with the traceback of an error; empty if the run did not start."""
        path = self.directory / LOG
        return path.read_text(encoding="utf-8") if path.is_file() else ""


def run_text(text: str, folder: Path, tables: Mapping[str, Any] | None = None, *, output: str = "run") -> Outcome:
    """Run a recipe in `folder` and return its outcome.

    Args:
        text: recipe in TOML; missing tables `[model]`, `[data]` and `[measure]` are filled in with toys.
        folder: existing folder for the run and for relative paths of the recipe, e.g. `tmp_path`.
        tables: tables to add, e.g. `{"plugins": [{"name": "tensorboard"}]}`.
        output: name of the run directory in `folder`.

    Raises:
        Exception: the run raised something other than a `ToolkitError`; this is a bug of the toolkit.
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
        return text  # the run reports the error
    return tomli_w.dumps({**DEFAULT_TABLES, **content, **tables})
