"""A stage of a finished run, exported to runtimes and measured as the exports of a recipe are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import InputError, TechniqueError, ToolkitError, did_you_mean
from toolkit.metrics import answers
from toolkit.recipe.read import PluginUse
from toolkit.report import Report, writer
from toolkit.report.reader import read_report
from toolkit.rows import WARNINGS, Note, Number, Row
from toolkit.runner.environment import describe, fixed_threads
from toolkit.runner.export_attempt import Request
from toolkit.runner.export_rows import raise_together
from toolkit.runner.exporting import ExportJob, OnPhase
from toolkit.runner.row_times import comparable, times_of, with_times
from toolkit.runner.runtimes import settings_by_runtime, use_of
from toolkit.runner.saved_run import NamedCode, open_run
from toolkit.runner.spoilt_times import Times
from toolkit.runner.technique_numbers import descriptions
from toolkit.storage.run_directory import EXPORTS, STAGES, RunDirectory

OF_TIMES = ("processor", "threads", "device")  # keys of a report's environment


@dataclass(frozen=True)
class ExportedRun:
    """What came of the exports of a run.

    `report` has the rows, `names` are those of the new ones. `errors` by runtime say why there is no row.
    """

    report: Report
    names: Sequence[str]
    errors: Mapping[str, ToolkitError]


@fixed_threads(None)
def export_run(
    directory: str | Path,
    runtimes: Sequence[str],
    stage: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    data: str | None = None,
    task: str | None = None,
    allow: Sequence[str] = (),
    budget_s: float = 5.0,
    on_phase: OnPhase = lambda *_: None,
) -> ExportedRun:
    """Write a stage's model into `exports/<runtime>` of its run directory, and a row for each into the run's report.

    An earlier export to the same runtime is replaced, files and row.

    Args:
        directory: a run directory.
        runtimes: names of runtimes.
        stage: name of a stage, number and name (`2-pruning`), or `baseline`; the last stage by default.
        settings: of the runtimes, as `settings_by_runtime` takes them.
        data: data source instead of the run's; required if the run's is Python code.
        task: task instead of the run's; required if the run's is Python code.
        allow: what the network consists of, as for `toolkit.load`, such as `nets.py:Net`.
        budget_s: seconds for the timing of all files together.
        on_phase: called with what begins.

    Raises:
        InputError: a runtime or the stage does not exist, something cannot be read, or a run is still at work.
        ToolkitError: there is no row at all; a line for each runtime says why.
    """
    folder, settings = Path(directory), settings or {}
    uses, errors = _uses(runtimes, settings)
    report = read_report(folder)
    number = _number(report, stage, folder)
    models = [_stage_folder(folder, row) for row in sorted({0, number})]
    opened, samples = open_run(
        folder, models, NamedCode(allow, data, task), _command(folder, runtimes, stage, settings)
    )
    job = _job(report, opened[0], samples, allow, budget_s / max(len(uses), 1))
    requests = [Request(name, use, opened[-1], folder / EXPORTS / name) for name, use in uses.items()]
    with RunDirectory.at_rest(folder) as run:
        outcomes = dict(zip(uses, job.rows(requests, on_phase), strict=True))
        errors |= {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, ToolkitError)}
        rows = [outcome for outcome in outcomes.values() if isinstance(outcome, Row)]
        if not rows:
            raise_together(list(errors.values()))
        for row in rows:
            row = _with_warning(with_times(row, comparable(times_of(row), job.baseline_times)), report)
            report = _with_row(report, row, number, descriptions([row], [uses[row.stage]]))
        writer.write_rows(report, run)
    writer.write_page(report)
    return ExportedRun(report, [row.stage for row in rows], errors)


def _uses(runtimes: Sequence[str], settings: Mapping[str, Any]) -> tuple[dict[str, PluginUse], dict[str, ToolkitError]]:
    """Return the runtimes by name, and the errors of those that cannot be imported."""
    uses: dict[str, PluginUse] = {}
    errors: dict[str, ToolkitError] = {}
    for name, values in settings_by_runtime(runtimes, settings).items():
        try:
            uses[name] = use_of(name, values)
        except TechniqueError as error:
            errors[name] = error
    return uses, errors


def _job(report: Report, baseline: nn.Module, data: Data, allow: Sequence[str], budget_s: float) -> ExportJob:
    split = "test" if data.test is not None else "validation"
    packages = [source.partition(":")[0].partition(".")[0] for source in allow if ".py" not in source]
    batch_sizes = sorted({1, data.batch_size})
    found = cache(partial(answers, baseline, data, split))
    return ExportJob(data, baseline, found, split, batch_sizes, budget_s, packages, _baseline_times(report))


def _baseline_times(report: Report) -> Times:
    """Return the times of the baseline's row if they were measured as those of files are now, else none."""
    return {} if _differences(report) else times_of(report.baseline)


def _differences(report: Report) -> list[str]:
    """Return what times depend on and is not as it was in the run, each with both values."""
    before, now = report.environment, describe(torch.device("cpu"))
    return [f"{key} {now[key]} instead of {before.get(key)}" for key in OF_TIMES if before.get(key) != now[key]]


def _with_warning(row: Row, report: Report) -> Row:
    """Return the row of a file with a warning if its times cannot be compared with those of the run's rows."""
    if not (differences := _differences(report)):
        return row
    circumstances = ", ".join(differences)
    message = f"timed with {circumstances}; do not compare its times with those of the run's stages"
    values = {**row.values, WARNINGS: Note(table=({"warning": message},))}
    return Row(row.stage, values, runtime=row.runtime, timed_with=circumstances)


def _with_row(report: Report, row: Row, start: int, numbers: Mapping[str, Number]) -> Report:
    """Return the report with the row of an export, in place of an earlier one of this name."""
    kept = [index for index, before in enumerate(report.rows) if before.stage != row.stage]
    rows, starts = [report.rows[index] for index in kept], [report.start(index) for index in kept]
    return report.model_copy(
        update={"rows": (*rows, row), "starts": (*starts, start), "numbers": {**report.numbers, **numbers}}
    )


def _command(folder: Path, runtimes: Sequence[str], stage: str | None, settings: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that does the same, without the options that name code."""
    named = [word for name in runtimes for word in ("--runtime", name)]
    of_stage = [] if stage is None else ["--stage", stage]
    values = [word for place, value in settings.items() for word in ("--set", f"{place}={json.dumps(value)}")]
    return ["toolkit", "export", str(folder), *named, *of_stage, *values]


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
