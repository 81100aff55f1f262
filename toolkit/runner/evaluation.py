"""Measuring of a saved model, on the run's data or a different source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.data.shapes import logits_shape
from toolkit.data.splits import Data
from toolkit.errors import InputError
from toolkit.exports.manifest import MANIFEST
from toolkit.metrics.support.measurer import Measurer
from toolkit.report import Report
from toolkit.rows import Row
from toolkit.runner.environment import describe, fixed_threads
from toolkit.runner.evaluate_export import evaluate_export
from toolkit.runner.saved_run import NamedCode, open_run


@fixed_threads(None)
def evaluate(
    directory: str | Path,
    data: str | None = None,
    *,
    task: str | None = None,
    allow: Sequence[str] = (),
    batch_size: int | None = None,
    budget_s: float = 5.0,
    trust: bool = False,
) -> Report:
    """Measure the model in a run directory, a stage's or an exported folder, and return a report with one row.

    Args:
        directory: folder with `model.safetensors` and `model.skeleton`, file of a packed model, or exported folder.
        data: data source; None for the run's. Required if the run's is Python code, because code that only a run
            directory names is never executed.
        task: task; None for the run's. Required, like `data`, if the run's is Python code.
        allow: what the network consists of, as for `toolkit.load`, e.g. `nets.py:Net`.
        batch_size: samples per batch; None for the run's.
        budget_s: time for the latency measurements, in seconds.
        trust: whether exported files may run native code.

    Raises:
        InputError: the model cannot be loaded, or data or task are missing or do not match it.
    """
    folder = Path(directory)
    if folder.is_file() and (folder.parent / MANIFEST).is_file():
        raise InputError(f"{folder} is one file of an export; name its folder, {folder.parent}")
    is_export = (folder / MANIFEST).is_file()
    models = [] if is_export else [folder]
    command = ["toolkit", "evaluate", str(folder), *(["--trust"] if trust else [])]
    opened, samples = open_run(folder, models, NamedCode(allow, data, task), command, batch_size)
    if is_export:
        return _report(samples, evaluate_export(folder, samples, trust, budget_s))
    [model] = opened
    try:
        logits_shape(model, samples)
    except InputError as error:
        raise InputError(f"the model in {folder} {error}") from error
    batch_sizes = sorted({1, samples.batch_size})
    with Measurer(model, samples, batch_sizes, budget_s, rows=1) as measurer:
        values = measurer.measure(model, folder)
    return _report(samples, Row(folder.resolve().name, values))


def _report(data: Data, row: Row) -> Report:
    return Report(name=row.stage, seed=0, rows=(row,), environment=describe(data.device), quality=data.quality)
