"""Measuring of a saved model, on the run's data or a different source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.data.shapes import logits_shape
from toolkit.errors import InputError
from toolkit.metrics.support.measurer import Measurer
from toolkit.report import Report
from toolkit.rows import Row
from toolkit.runner.environment import describe
from toolkit.runner.saved_run import NamedCode, open_run


def evaluate(
    directory: str | Path,
    data: str | None = None,
    *,
    task: str | None = None,
    allow: Sequence[str] = (),
    batch_size: int | None = None,
    budget_s: float = 5.0,
) -> Report:
    """Measure the model in a run directory or a stage's folder, and return a report with one row.

    Args:
        directory: folder with `model.safetensors` and `model.skeleton`, or file of a packed model.
        data: data source; None for the run's. Required if the run's is Python code, because code that only a run
            directory names is never executed.
        task: task; None for the run's. Required, like `data`, if the run's is Python code.
        allow: what the network consists of, as for `toolkit.load`, e.g. `nets.py:Net`.
        batch_size: samples per batch; None for the run's.
        budget_s: time for the latency measurements, in seconds.

    Raises:
        InputError: the model cannot be loaded, or data or task are missing or do not match it.
    """
    folder = Path(directory)
    named = NamedCode(allow, data, task)
    [model], samples = open_run(folder, [folder], named, ["toolkit", "evaluate", str(folder)], batch_size)
    try:
        logits_shape(model, samples)
    except InputError as error:
        raise InputError(f"the model in {folder} {error}") from error
    batch_sizes = sorted({1, samples.batch_size})
    with Measurer(model, samples, batch_sizes, budget_s, rows=1) as measurer:
        values = measurer.measure(model, folder)
    name = folder.resolve().name
    row = Row(name, values)
    return Report(name=name, seed=0, rows=(row,), environment=describe(samples.device), quality=samples.quality)
