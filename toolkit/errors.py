"""The errors a user meets: each one sentence that says what was wrong, where, what was found and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class ToolkitError(Exception):
    """Anything the toolkit has to say to its user; the command line prints it without a traceback."""

    exit_code = 1


class InputError(ToolkitError):
    """Something that the user gave (a file, a directory, an option) cannot be used; nothing was run."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: `place` is a dotted path such as `stages.1.params.sparsity`."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class RecipeError(InputError):
    """Every mistake found in one recipe, each with its place."""

    def __init__(self, recipe: str, problems: Sequence[Problem]) -> None:
        self.recipe = recipe
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{recipe}: {problem}" for problem in self.problems))


class TechniqueError(ToolkitError):
    """A technique refuses or fails; raised inside a hook, the runner adds technique, hook and stage."""


class TechniqueRefusal(TechniqueError):
    """A technique says itself, in its own words, that it cannot work on this model with these params."""


class TrainingError(ToolkitError):
    """A training cannot go on, for example because its loss is no longer finite."""


class ArtifactError(InputError):
    """A model on disk cannot be opened or a model cannot be written to disk."""


def described(error: BaseException) -> str:
    """An error of somebody else's code on one line: its class and what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'sparsity'?` for a close name, else the known names, else nothing."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def newer_format(file_format: int, readable: int) -> str:
    """What to say of a file whose format is newer than the newest one that this version can read."""
    return (
        f"was written by a newer version of the toolkit (format {file_format}, this one reads up to {readable}): "
        "upgrade with pip install -U torch-optimization-toolkit"
    )
