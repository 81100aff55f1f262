"""Errors that come up in a stage, with what a reader needs to know whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from toolkit.errors import ArtifactError, TechniqueError, ToolkitError, TrainingError, described
from toolkit.recipe.read import Stage


@contextmanager
def attribute_errors_to(stage: Stage) -> Iterator[None]:
    """What a loss, a step function or a module of a technique raises while training, as a `TechniqueError`."""
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        raise TechniqueError(f"training with {stage.technique_names} failed: {described(error)}") from error


@contextmanager
def errors_located_in(stage: Stage, place: str = "") -> Iterator[None]:
    """Put the stage, or another place, in front of errors of a technique or a training."""
    place = place or f"stage {stage.number} ({stage.name})"
    try:
        yield
    except (TechniqueError, TrainingError) as error:
        raise type(error)(f"{place}: {error}") from error
    except ArtifactError as error:
        message = f"{place}: the model that {stage.technique_names} returned: {error}"
        raise TechniqueError(message) from error
    except ToolkitError:
        raise
    except Exception as error:  # from a model, a data set or a task of the user's; the log has the traceback
        raise ToolkitError(f"{place} failed with {described(error)}") from error
