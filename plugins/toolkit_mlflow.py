"""MLflow: logs the recipe, live learning curves, the numbers of every row, the model and the report.

Without a `tracking_uri` everything goes into an SQLite file in the run directory, and no server is needed. View it with
`mlflow ui --backend-store-uri sqlite:///runs/<name>/plugins/mlflow/mlflow.db`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when mlflow is imported: a run must not be reported to anybody.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from pydantic import Field

import toolkit

FOLDER = Path("plugins", "mlflow")
MODEL = ("model.safetensors", "model.skeleton", "model.packed")  # those that exist are logged
ARTIFACTS = ("recipe.toml", "report.json", "report.md", "report.html", *MODEL)
MAX_BATCH = 100  # parameters or metrics in one request to MLflow
MAX_VALUE_LENGTH = 500

for _name in ("mlflow.store.db.utils", "alembic"):  # they log every table that they create
    logging.getLogger(_name).setLevel(logging.WARNING)


class Params(toolkit.Params):
    """Where to log, and how often."""

    tracking_uri: str | None = Field(
        default=None, description="URI of a server or database (default: a file in the run directory)"
    )
    experiment: str | None = Field(default=None, description="MLflow experiment (default: name of the recipe)")
    every: int = Field(default=10, ge=1, description="training steps between two points of a curve")
    flush_s: float = Field(default=2.0, ge=0, description="seconds until logged points can be read")
    artifact: bool = Field(default=True, description="copy the model and the report into MLflow")


class Tracker:
    """One MLflow run, and the points that have not been sent to it yet."""

    def __init__(self, client: MlflowClient, run_id: str, flush_s: float) -> None:
        self.client, self.run_id, self._flush_s = client, run_id, flush_s
        self._points: list[Metric] = []
        self._sent = time.monotonic()

    def add(self, name: str, value: float, step: int) -> None:
        """Keep one point until the next `send`."""
        name = re.sub(r"[^\w./ :-]", "_", name)
        self._points.append(Metric(name, value, int(time.time() * 1000), step))

    def send(self, at_once: bool = False) -> None:
        """Send what was added, unless something was sent less than `flush_s` ago."""
        if not at_once and time.monotonic() - self._sent < self._flush_s and len(self._points) < MAX_BATCH:
            return
        for start in range(0, len(self._points), MAX_BATCH):
            self.client.log_batch(self.run_id, metrics=self._points[start : start + MAX_BATCH])
        self._points, self._sent = [], time.monotonic()


def flattened(table: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value of nested tables by its place, such as `stages.1.params.sparsity`; lists count from 1."""
    if isinstance(table, dict) or (isinstance(table, list) and any(isinstance(item, dict) for item in table)):
        for key, value in table.items() if isinstance(table, dict) else enumerate(table, start=1):
            yield from flattened(value, f"{place}.{key}" if place else str(key))
    else:
        yield place, str(table)[:MAX_VALUE_LENGTH]


@toolkit.hookimpl
def on_start(params: Params, recipe: toolkit.Recipe, directory: Path) -> Tracker:
    """Start an MLflow run and log every value of the recipe."""
    folder = (directory / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=params.tracking_uri or f"sqlite:///{(folder / 'mlflow.db').as_posix()}")
    run_id = client.create_run(_experiment(client, params, recipe.name, folder), run_name=recipe.name).info.run_id
    values = [Param(*item) for item in flattened(recipe.table.model_dump(by_alias=True, exclude_none=True))]
    for start in range(0, len(values), MAX_BATCH):
        client.log_batch(run_id, params=values[start : start + MAX_BATCH])
    return Tracker(client, run_id, params.flush_s)


@toolkit.hookimpl
def on_step(
    params: Params, prepared: Tracker, stage: toolkit.Stage, step: int, steps: int, loss: float, lr: float
) -> None:
    """Add a point to the stage's curves."""
    if step % params.every and step not in (1, steps):
        return
    prepared.add(f"loss/{stage.number}-{stage.name}", loss, step)
    prepared.add(f"lr/{stage.number}-{stage.name}", lr, step)
    prepared.send(at_once=step == steps)


@toolkit.hookimpl
def on_epoch(prepared: Tracker, stage: toolkit.Stage, epoch: int, validation: dict[str, float | None] | None) -> None:
    """Add the metrics of validation to curves over the epochs."""
    for name, value in (validation or {}).items():
        if value is not None:
            prepared.add(f"validation_{name}/{stage.number}-{stage.name}", value, epoch)
    prepared.send()


@toolkit.hookimpl
def on_row(prepared: Tracker, stage: toolkit.Stage, row: toolkit.Row) -> None:
    """Log the row's numbers, with the stage's number as the step."""
    for name, value in row.values.items():
        if isinstance(value, (int, float)):
            prepared.add(f"row/{name}", float(value), stage.number)
    prepared.send(at_once=True)


@toolkit.hookimpl
def on_end(params: Params, prepared: Tracker, directory: Path) -> None:
    """Log the model and the report, and end the run."""
    for name in ARTIFACTS if params.artifact else ():
        if (directory / name).is_file():
            prepared.client.log_artifact(prepared.run_id, str(directory / name))
    prepared.client.set_terminated(prepared.run_id, "FINISHED")


@toolkit.hookimpl
def on_failure(prepared: Tracker, error: BaseException) -> None:
    """End the run as failed, or as killed if it was interrupted."""
    prepared.send(at_once=True)
    prepared.client.set_tag(prepared.run_id, "error", str(error)[:MAX_VALUE_LENGTH])
    prepared.client.set_terminated(prepared.run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")


def _experiment(client: MlflowClient, params: Params, name: str, folder: Path) -> str:
    name = params.experiment or name
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    # A server has its own place for artifacts.
    location = None if params.tracking_uri else (folder / "artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=location))
