"""A stage of a finished run, exported to a runtime and measured as an export of a recipe is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import InputError, did_you_mean
from toolkit.hooks import loading
from toolkit.metrics import answers
from toolkit.recipe.problems import problems_of
from toolkit.recipe.read import PluginUse
from toolkit.report import Report, writer
from toolkit.report.reader import read_report
from toolkit.rows import Number, Row
from toolkit.runner.environment import describe, fixed_threads
from toolkit.runner.exporting import ExportJob
from toolkit.runner.row_times import comparable, times_of, with_times
from toolkit.runner.saved_run import NamedCode, open_run
from toolkit.runner.spoilt_times import Times
from toolkit.runner.technique_numbers import descriptions
from toolkit.storage.run_directory import EXPORTS, STAGES, RunDirectory


@fixed_threads(None)
def export_run(
    directory: str | Path,
    runtime: str,
    stage: str | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    data: str | None = None,
    task: str | None = None,
    allow: Sequence[str] = (),
    budget_s: float = 5.0,
) -> Report:
    """Write a stage's model into `exports/<runtime>` of its run directory, and its row into the run's report.

    An earlier export to the same runtime is replaced, files and row.

    Args:
        directory: a run directory.
        runtime: name of an installed runtime.
        stage: name of a stage, number and name (`2-pruning`), or `baseline`; the last stage by default.
        params: settings of the runtime.
        data: data source instead of the run's; required if the run's is Python code.
        task: task instead of the run's; required if the run's is Python code.
        allow: what the network consists of, as for `toolkit.load`, such as `nets.py:Net`.
        budget_s: seconds for the timing.

    Returns:
        The report with the row.

    Raises:
        InputError: the runtime or the stage does not exist, something cannot be read, or a run is still at work.
        TechniqueError: the model cannot be exported, or the file does not match it.
    """
    folder = Path(directory)
    use = _use(runtime, params or {})
    report = read_report(folder)
    number = _number(report, stage, folder)
    models = [_stage_folder(folder, row) for row in sorted({0, number})]
    command = _command(folder, runtime, stage, params or {})
    opened, samples = open_run(folder, models, NamedCode(allow, data, task), command)
    baseline, model = opened[0], opened[-1]
    split = "test" if samples.test is not None else "validation"
    packages = [source.partition(":")[0].partition(".")[0] for source in allow if ".py" not in source]
    batch_sizes = sorted({1, samples.batch_size})
    found, times = answers(baseline, samples, split), _baseline_times(report)
    job = ExportJob(samples, baseline, found, split, batch_sizes, budget_s, packages, times)
    with RunDirectory.at_rest(folder) as run:
        row = job.row(runtime, use, model, folder / EXPORTS / runtime)
        row = with_times(row, comparable(times_of(row), times))
        report = _with_row(report, row, number, descriptions([row], [use]))
        writer.write_rows(report, run)
    writer.write_page(report)
    return report


def _baseline_times(report: Report) -> Times:
    """Return the times of the baseline's row if they were measured as those of files are now, else none."""
    now = describe(torch.device("cpu"))
    is_alike = all(report.environment.get(key) == now[key] for key in ("processor", "threads", "device"))
    return times_of(report.baseline) if is_alike else {}


def _with_row(report: Report, row: Row, start: int, numbers: Mapping[str, Number]) -> Report:
    """Return the report with the row of an export, in place of an earlier one of this name."""
    kept = [index for index, before in enumerate(report.rows) if before.stage != row.stage]
    rows, starts = [report.rows[index] for index in kept], [report.start(index) for index in kept]
    return report.model_copy(
        update={"rows": (*rows, row), "starts": (*starts, start), "numbers": {**report.numbers, **numbers}}
    )


def _use(runtime: str, params: Mapping[str, Any]) -> PluginUse:
    plugin = loading.load(runtime, "runtime")
    try:
        return PluginUse(plugin, plugin.params_class.model_validate(params))
    except ValidationError as error:
        problem = next(problems_of(error, plugin.params_class))
        raise InputError(f"{runtime}: {problem}") from None


def _command(folder: Path, runtime: str, stage: str | None, params: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that does the same, without the options that name code."""
    of_stage = [] if stage is None else ["--stage", stage]
    settings = [word for place, value in params.items() for word in ("--set", f"{place}={json.dumps(value)}")]
    return ["toolkit", "export", str(folder), "--runtime", runtime, *of_stage, *settings]


def open_stage(folder: Path, stage: str | None, named: NamedCode, command: Sequence[str]) -> tuple[nn.Module, Data]:
    """Return the model of a stage, by default of the last one, and the data of its run."""
    number = _number(read_report(folder), stage, folder)
    [model], data = open_run(folder, [_stage_folder(folder, number)], named, command)
    return model, data


def _number(report: Report, stage: str | None, folder: Path) -> int:
    """Return the number of a stage: by name, or by number and name as its folder is called, such as `2-pruning`."""
    names = [row.stage for row in report.rows if row.runtime is None]
    if stage is None:
        return len(names) - 1
    folders = [f"{number}-{name}" for number, name in enumerate(names)]
    numbers = [number for number, name in enumerate(names) if stage in (name, folders[number])]
    if not numbers:
        raise InputError(f"{folder} has no stage '{stage}'{did_you_mean(stage, names)}")
    if len(numbers) > 1:
        choices = " or ".join(folders[number] for number in numbers)
        raise InputError(f"{folder} has {len(numbers)} stages named '{stage}'; write --stage {choices}")
    return numbers[0]


def _stage_folder(folder: Path, number: int) -> Path:
    matches = sorted((folder / STAGES).glob(f"{number}-*"))
    if not matches:
        raise InputError(f"{folder} has no files of stage {number}; run its recipe again")
    return matches[0]
