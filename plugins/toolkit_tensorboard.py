"""TensorBoard: writes live learning curves, and the numbers and notes of every row.

View them with `tensorboard --logdir runs`: the curves are `loss/<stage>` and `lr/<stage>` over the steps, and
`validation_<metric>/<stage>` over the epochs. The measured numbers are `row/<metric>` over the stages; the recipe, the
notes and the final table are texts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field
from torch.utils.tensorboard import SummaryWriter

import toolkit

FOLDER = Path("plugins", "tensorboard")


class Params(toolkit.Params):
    """How often to write."""

    every: int = Field(default=10, ge=1, description="training steps between two points of a curve")
    flush_s: float = Field(default=2.0, ge=0, description="seconds until written points can be read")


class Writer:
    """The event file, and when it was last flushed."""

    def __init__(self, folder: Path, flush_s: float) -> None:
        self.events: Any = SummaryWriter(str(folder))
        self._flush_s, self._flushed = flush_s, time.monotonic()

    def add_curve(self, name: str, value: float, step: int) -> None:
        """Add one point to a curve."""
        self.events.add_scalar(name, value, step)

    def flush(self, at_once: bool = False) -> None:
        """Flush the event file, unless it was flushed less than `flush_s` ago."""
        if at_once or time.monotonic() - self._flushed >= self._flush_s:
            self.events.flush()
            self._flushed = time.monotonic()


@toolkit.hookimpl
def on_start(params: Params, recipe: toolkit.Recipe, directory: Path) -> Writer:
    """Open the event file and write the recipe."""
    writer = Writer(directory / FOLDER, params.flush_s)
    text = tomli_w.dumps(recipe.table.model_dump(by_alias=True, exclude_none=True))
    writer.events.add_text("recipe", f"```toml\n{text}```")
    writer.flush(at_once=True)
    return writer


@toolkit.hookimpl
def on_step(
    params: Params, prepared: Writer, stage: toolkit.Stage, step: int, steps: int, loss: float, lr: float
) -> None:
    """Add a point to the stage's curves."""
    if step % params.every and step not in (1, steps):
        return
    name = f"{stage.number}-{stage.name}"
    prepared.add_curve(f"loss/{name}", loss, step)
    prepared.add_curve(f"lr/{name}", lr, step)
    prepared.flush(at_once=step == steps)


@toolkit.hookimpl
def on_epoch(prepared: Writer, stage: toolkit.Stage, epoch: int, validation: dict[str, float | None] | None) -> None:
    """Add the metrics of validation to curves over the epochs."""
    for name, value in (validation or {}).items():
        if value is not None:
            prepared.add_curve(f"validation_{name}/{stage.number}-{stage.name}", value, epoch)
    prepared.flush()


@toolkit.hookimpl
def on_row(prepared: Writer, stage: toolkit.Stage, row: toolkit.Row) -> None:
    """Add the row's numbers at the stage's number, and its notes."""
    for name, value in row.values.items():
        if isinstance(value, (int, float)):
            prepared.add_curve(f"row/{name}", float(value), stage.number)
    for name, note in row.notes.items():
        prepared.events.add_text(f"{stage.number}-{stage.name}/{name}", note.model_dump_json(), stage.number)
    prepared.flush(at_once=True)


@toolkit.hookimpl
def on_end(prepared: Writer, report: toolkit.Report) -> None:
    """Write the final table."""
    prepared.events.add_text("report", f"```\n{report}\n```")
    prepared.events.close()


@toolkit.hookimpl
def on_failure(prepared: Writer) -> None:
    """Close the event file, and keep what is in it."""
    prepared.events.close()
