"""Frozen: a run-wide plugin that uses all there was in version 0.1. It is never edited."""

from pathlib import Path

from pydantic import Field

import toolkit


class Params(toolkit.Params):
    """One setting."""

    name: str = Field(default="told.txt", description="of the file that is written")


@toolkit.hookimpl
def on_start(params: Params, recipe: toolkit.Recipe, directory: Path) -> list[str]:
    return [f"start {recipe.name} {recipe.seed} {len(recipe.stages)} {directory.name}"]


@toolkit.hookimpl
def on_stage(params: Params, prepared: list[str], stage: toolkit.Stage) -> None:
    prepared.append(f"stage {stage.number} {stage.name}")


@toolkit.hookimpl
def on_step(
    params: Params, prepared: list[str], stage: toolkit.Stage, step: int, steps: int, loss: float, lr: float
) -> None:
    if step == steps:
        prepared.append(f"trained {stage.name} in {steps} steps, {loss > 0}, {lr > 0}")


@toolkit.hookimpl
def on_progress(
    params: Params, prepared: list[str], stage: toolkit.Stage, activity: str, done: float, total: float
) -> None:
    if done == total:
        prepared.append(f"{activity} of {stage.name} done")


@toolkit.hookimpl
def measure(model, params: Params, data: toolkit.Data, prepared: list[str]) -> dict[str, float]:
    return {"layers": len(list(model.children()))}


@toolkit.hookimpl
def on_row(params: Params, prepared: list[str], stage: toolkit.Stage, row: toolkit.Row, report: toolkit.Report) -> None:
    prepared.append(f"row {row.stage} of {len(report.rows)}, accuracy {0 < row['accuracy'] <= 1}")


@toolkit.hookimpl
def on_end(params: Params, prepared: list[str], report: toolkit.Report, directory: Path) -> None:
    (directory / params.name).write_text("\n".join([*prepared, f"end {report.final.stage}"]))


@toolkit.hookimpl
def on_failure(params: Params, prepared: list[str], error: BaseException, directory: Path) -> None:
    (directory / params.name).write_text("\n".join([*prepared, f"failed {error}"]))
