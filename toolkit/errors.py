"""The errors of the toolkit: each message is one sentence, `place: finding; remedy`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HINT = "hint: "  # the beginning of a line that names no mistake, only what to do


class ToolkitError(Exception):
    """The base class of all errors; the command line prints the message without a traceback."""

    exit_code = 1


class InputError(ToolkitError):
    """An input (a file, a directory, an option) cannot be used; nothing was run."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: `place` is a dotted path such as `stages.1.params.sparsity`."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class RecipeError(InputError):
    """All mistakes in one recipe, each with its place."""

    def __init__(self, recipe: str, problems: Sequence[Problem]) -> None:
        self.recipe = recipe
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{recipe}: {problem}" for problem in self.problems))


class TechniqueError(ToolkitError):
    """A technique failed, or cannot be applied; raise it in a hook, and the runner adds technique, hook and stage."""


class TechniqueRefusal(TechniqueError):
    """A technique raised an error on purpose: it cannot be applied to this model with these params."""


class MetricError(ToolkitError):
    """A metric cannot measure a model; the message names the metric, and the runner adds the stage."""


class TrainingError(ToolkitError):
    """Training cannot continue, for example because the loss is not finite."""


class ArtifactError(InputError):
    """A model cannot be loaded from disk, or cannot be saved.

    Attributes:
        unknown: names of classes in a file that the caller has to allow; empty if something else is wrong.
    """

    def __init__(self, message: str, unknown: Sequence[str] = ()) -> None:
        self.unknown = tuple(unknown)
        super().__init__(message)


def described(error: BaseException) -> str:
    """Return the class and the message of an error on one line, for errors raised by third-party code."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def closest(word: str, available: Iterable[str]) -> str | None:
    """Return the name that `word` probably is with a typing error, None if no name is close."""
    close = difflib.get_close_matches(word, sorted(set(available)), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, available: Iterable[str]) -> str:
    """Return `; did you mean 'sparsity'?` for a close match, else the list of available names, else an empty string."""
    names = sorted(set(available))
    if close := closest(word, names):
        return f"; did you mean '{close}'?"
    return f"; known: {', '.join(names)}" if names else ""


def newer_format(file_format: int, readable: int) -> str:
    """Return what to report about a file whose format is newer than this version can read."""
    return (
        f"was written by a newer version of the toolkit (format {file_format}, this version reads up to {readable}); "
        "upgrade it with pip install -U torch-optimization-toolkit"
    )
