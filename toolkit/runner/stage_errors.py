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
def errors_located_in(stage: Stage) -> Iterator[None]:
    """Errors of a technique or a training, with the stage in which they came up."""
    try:
        yield
    except (TechniqueError, TrainingError) as error:
        raise type(error)(f"stage {stage.number} ({stage.name}): {error}") from error
    except ArtifactError as error:
        message = f"stage {stage.number} ({stage.name}): the model that {stage.technique_names} returned: {error}"
        raise TechniqueError(message) from error
    except ToolkitError:
        raise
    except Exception as error:  # from a model, a data set or a task of the user's; the log has the traceback
        raise ToolkitError(f"stage {stage.number} ({stage.name}) failed with {described(error)}") from error
