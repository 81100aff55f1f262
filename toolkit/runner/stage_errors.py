"""The errors of a stage, with the stage and the technique that caused them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from toolkit.errors import ArtifactError, MetricError, TechniqueError, ToolkitError, TrainingError, described
from toolkit.recipe.read import Stage


@contextmanager
def attribute_errors_to(stage: Stage) -> Iterator[None]:
    """Raise an error of the training as a `TechniqueError` that names the techniques, or the one that caused it."""
    try:
        yield
    except ToolkitError:
        raise
    except Exception as error:
        owner = _cause_of(error, stage)
        deed = f"{owner} failed while training" if owner else f"training with {stage.technique_names} failed"
        raise TechniqueError(f"{deed} with {described(error)}") from error


def _cause_of(error: Exception, stage: Stage) -> str:
    """Return the technique whose code is the innermost in the traceback, empty if none is in it."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    for name in reversed(names):
        for use in stage.uses:
            module = getattr(use.plugin.module, "__name__", None)
            if module is not None and (name == module or name.startswith(f"{module}.")):
                return str(use.plugin)
    return ""


@contextmanager
def errors_located_in(stage: Stage, place: str = "") -> Iterator[None]:
    """Raise errors of techniques, trainings and metrics with the stage, or another place, in front."""
    place = place or f"stage {stage.number} ({stage.name})"
    try:
        yield
    except (MetricError, TechniqueError, TrainingError) as error:
        raise type(error)(f"{place}: {error}") from error
    except ArtifactError as error:
        message = f"{place}: the model that {stage.technique_names} returned cannot be stored: {error}"
        raise TechniqueError(message) from error
    except ToolkitError:
        raise
    except Exception as error:  # of the user's model, dataset or task; the log has the traceback
        raise ToolkitError(f"{place} failed with {described(error)}") from error
