"""Profile: traces a few training steps and a few inferences of every stage, to show where the time goes.

The traces are in `plugins/profile` of the run directory; open them at https://ui.perfetto.dev. A note in every row
lists the operators that take most of the time. A trace that exceeds `largest_mb` is dropped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.profiler import ProfilerActivity, profile

import toolkit

# Read when the first recording starts. Without it, every recording prints two lines to the terminal.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

FOLDER = Path("plugins", "profile")
MAX_OPERATORS = 10


class Params(toolkit.Params):
    """How much to record."""

    skip: int = Field(default=5, ge=1, description="training steps of a stage before the recording starts")
    steps: int = Field(default=10, ge=1, le=1000, description="training steps to record, and inferences")
    batch_size: int = Field(default=128, ge=1, description="samples per inference")
    largest_mb: float = Field(
        default=10.0, gt=0, description="megabytes of a compressed trace; larger traces are dropped"
    )


class Recorder:
    """Records one trace at a time, and writes it into a folder."""

    def __init__(self, folder: Path, largest_mb: float) -> None:
        self.folder, self._largest_bytes = folder, largest_mb * 1e6
        self.stage = ""
        self._running: Any = None

    @property
    def running(self) -> bool:
        """Whether a recording is under way."""
        return self._running is not None

    def start(self) -> None:
        """Start recording."""
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._running = profile(activities=activities)
        self._running.start()

    def stop(self, what: str) -> toolkit.Note:
        """Write the trace, and return a table of the operators that take most of the time."""
        recorded, self._running = self._running, None
        recorded.stop()
        path = self.folder / f"{self.stage}-{what}.json.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(path))
        return toolkit.Note(self._bounded(path), operators(recorded))

    def drop(self) -> None:
        """Discard the recording under way, if there is one."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def _bounded(self, path: Path) -> str:
        size = path.stat().st_size
        if size <= self._largest_bytes:
            return f"the trace is {path.name}"
        path.unlink()
        return f"the trace was dropped, because its {size / 1e6:.1f} MB exceed largest_mb: record fewer steps"


def operators(recorded: Any) -> list[dict[str, Any]]:
    """Return a row for each of the operators that take most of the time, not counting the operators that they call."""
    averages = [average for average in recorded.key_averages() if not average.key.startswith("Profiler")]
    averages.sort(key=_own_time_us, reverse=True)
    total = sum(map(_own_time_us, averages)) or 1.0
    return [
        {"operator": average.key, "calls": average.count, "share": _own_time_us(average) / total}
        for average in averages[:MAX_OPERATORS]
    ]


@toolkit.hookimpl
def on_start(params: Params, directory: Path) -> Recorder:
    """Create the recorder; nothing is recorded yet."""
    return Recorder(directory / FOLDER, params.largest_mb)


@toolkit.hookimpl
def on_stage(prepared: Recorder, stage: toolkit.Stage) -> None:
    """Name the traces of this stage."""
    prepared.stage = f"{stage.number}-{stage.name}"


@toolkit.hookimpl
def on_step(params: Params, prepared: Recorder, step: int, steps: int) -> None:
    """Start after the first steps, in which torch still allocates, and stop `params.steps` later."""
    first = min(params.skip, max(1, steps - params.steps))
    if prepared.running and (step == steps or step >= first + params.steps):
        prepared.stop("training")
    elif step == first and step < steps:
        prepared.start()


@toolkit.hookimpl
def measure(model: nn.Module, params: Params, data: toolkit.Data, prepared: Recorder) -> dict[str, toolkit.Note]:
    """Report as `inference` the operators that take most of the time at `batch_size`."""
    batch = data.example(params.batch_size)
    data.task.forward(model, batch)
    prepared.start()
    try:
        for _ in range(params.steps):
            data.task.forward(model, batch)
    except BaseException:
        prepared.drop()
        raise
    return {"inference": prepared.stop("inference")}


@toolkit.hookimpl
def on_failure(prepared: Recorder) -> None:
    """Stop recording, because a process can have only one profiler."""
    prepared.drop()


def _own_time_us(average: Any) -> float:
    return float(average.self_cpu_time_total) + float(getattr(average, "self_device_time_total", 0.0))
