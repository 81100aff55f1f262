"""The exports of a recipe: the models of rows as files, and a row for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from toolkit.errors import ToolkitError
from toolkit.recipe.read import Export, Stage
from toolkit.rows import Row
from toolkit.runner.export_attempt import Request
from toolkit.runner.exporting import ExportJob
from toolkit.runner.stage_errors import errors_located_in

OnActivity = Callable[[Stage, str], None]


def export_all(
    exports: Sequence[Export],
    models: Sequence[nn.Module],
    folder: Path,
    job: ExportJob,
    on_activity: OnActivity,
    add_row: Callable[[Stage, Row], None],
) -> None:
    """Export models of rows together.

    Args:
        exports: of a recipe, at least one.
        models: of all stages, by number.
        folder: receives a folder for each export.
        job: what they have in common.
        on_activity: called with what begins.
        add_row: called with the row of each export that succeeds, also if another one fails.

    Raises:
        ToolkitError: at least one export failed; each has a line.
    """
    numbered = enumerate(exports, start=len(models))
    stages = {export.name: Stage(number, export.name, start=export.start) for number, export in numbered}
    requests = [Request(export.name, export.use, models[export.start], folder / export.name) for export in exports]
    with errors_located_in(stages[exports[0].name], "exports"):
        outcomes = job.rows(requests, lambda request, activity: on_activity(stages[request.name], activity))
    errors = []
    for stage, outcome in zip(stages.values(), outcomes, strict=True):
        if isinstance(outcome, Row):
            add_row(stage, outcome)
        else:
            errors.append(_located(outcome, stage))
    raise_together(errors)


def _located(error: ToolkitError, stage: Stage) -> ToolkitError:
    """Return the error with the export in front."""
    try:
        with errors_located_in(stage, f"export '{stage.name}'"):
            raise error
    except ToolkitError as located:
        return located


def raise_together(errors: Sequence[ToolkitError]) -> None:
    """Raise errors as one, each on a line of its own; do nothing if there are none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ToolkitError("\n".join(map(str, errors)))
