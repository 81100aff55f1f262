"""The values of a run's rows: the metrics of the toolkit, and the numbers of the stage's techniques."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from toolkit.metrics import Answers, latency
from toolkit.metrics.support.measurer import Measurer
from toolkit.metrics.support.time_budget import MAX_BUDGETS
from toolkit.promises.watch import Watch
from toolkit.recipe.read import Recipe, Stage
from toolkit.report.validation_series import PREFIX
from toolkit.rows import Note, Row
from toolkit.runner.assembly import Assembly
from toolkit.runner.exporting import ExportJob
from toolkit.runner.output import Output
from toolkit.runner.row_times import times_of
from toolkit.runner.spoilt_times import Times
from toolkit.runner.stage import StageOutcome
from toolkit.runner.technique_numbers import named_measures
from toolkit.sources import models_in
from toolkit.storage.results import Result
from toolkit.storage.run_directory import RunDirectory

OnMeasuring = Callable[[Stage, float, float], None]
MEASURED_WITH = "measured_with"  # key in a result's values: hash of everything that determines the metrics


@dataclass
class Elapsed:
    """Duration of a block, in seconds, after its end."""

    seconds: float = 0.0


def _packages_of(recipe: Recipe) -> list[str]:
    """Return the top-level names of the modules that the recipe's sources come from; files are blocked by isolation."""
    models = [source for stage in recipe.stages for use in stage.uses for _, source in models_in(use.params)]
    places = [
        source.source.rpartition(":")[0] for source in (recipe.model, recipe.data, *models) if ":" in source.source
    ]
    return [place.partition(".")[0] for place in places if not place.endswith(".py")]


class Measuring:
    """Saves the model of each stage and measures it; a context manager, as `Measurer` is.

    Args:
        recipe: recipe with the settings of `[measure]`.
        assembly: data, and the model that becomes the baseline.
        directory: run directory, with a folder for each stage.
        key: hash of everything that determines the metrics, None if it is unknown.
        on_measuring: called repeatedly with `(stage, done_s, total_s)`.
    """

    def __init__(
        self, recipe: Recipe, assembly: Assembly, directory: RunDirectory, key: str | None, on_measuring: OnMeasuring
    ) -> None:
        self._data, self._directory, self._key, self._on_measuring = assembly.data, directory, key, on_measuring
        self._output = Output(recipe.table.output)
        self._latest: tuple[nn.Module | None, nn.Module] = None, assembly.model
        default = {1, min(self._data.batch_size, self._data.samples("train"))}
        batch_sizes = recipe.measure.batch_sizes or sorted(default)
        rows = len(recipe.stages) + 1 + len(recipe.exports)
        self._budget_s, self.share_s = recipe.measure.budget, recipe.measure.budget / rows
        self.blocked = _packages_of(recipe)
        self._measurer = Measurer(assembly.model, self._data, batch_sizes, recipe.measure.budget, rows)

    def __enter__(self) -> Measuring:
        self._measurer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._measurer.__exit__(*error)

    def first(self, stage: Stage, outcome: StageOutcome, watch: Watch | None) -> dict[str, Any]:
        """Measure a stage that has just ended; `watch` checks that its techniques do not change the model any more."""
        started = time.perf_counter()
        values = self._core(stage, outcome.model)
        with self.timed():
            if watch is not None:
                values.update(self._by_techniques(stage, outcome, watch, values.keys()))
        if outcome.losses:
            values["training_loss"] = list(outcome.losses)
        values.update({f"{PREFIX}{metric}": series for metric, series in outcome.validation.items()})
        return {**values, MEASURED_WITH: self._key, "measuring_s": time.perf_counter() - started}

    def again(self, stage: Stage, result: Result, model: nn.Module) -> Result:
        """Return the saved result of a stage, measured again if its metrics were measured in a different way."""
        if stage.number == 0:
            self._measurer.baseline = model
        if result.reused and result.values.get(MEASURED_WITH) != self._key:
            stored = result.values.items()
            of_stage = {name: value for name, value in stored if "." in name or isinstance(value, (list, Note))}
            return replace(result, values={**of_stage, **self._core(stage, model), MEASURED_WITH: self._key})
        self._directory.stage(stage.number, stage.name).write_all(self.files(model, stage.number))
        self._measurer.skip(model)
        return result

    def answers_of(self, model: nn.Module) -> Answers | None:
        """Return the answers of the last measured model, None for any other model."""
        return self._measurer.answers_of(self._latest[1] if self._latest[0] is model else model)

    def export_job(self, baseline: nn.Module, row: Row) -> ExportJob:
        """Return what the exports of this run have in common; `row` is the baseline's."""
        measurer = self._measurer
        answers = measurer.answers
        assert answers is not None
        return ExportJob(
            self._data,
            baseline,
            lambda: answers,
            measurer.split,
            measurer.batch_sizes,
            self.share_s,
            self.blocked,
            times_of(row) if self._data.device.type == "cpu" else {},
        )

    @property
    def repeat_s(self) -> float:
        """Seconds for timing rows again: the timings of all stages take at most `MAX_BUDGETS` budgets."""
        return max(0.0, MAX_BUDGETS * self._budget_s - self._measurer.seconds.get("latency", 0.0))

    def time_again(self, stage: Stage, model: nn.Module, sizes: Sequence[int], budget_s: float) -> Times:
        """Return the times of a stage's model next to the baseline; the baseline is timed alone."""
        deployed, progress = self._deployed(model, stage.number), partial(self._on_measuring, stage)
        return latency(deployed, self._measurer.baseline, self._data, sizes, budget_s, progress)

    def files(self, model: nn.Module, number: int) -> dict[str, bytes]:
        """Return the files of a row's model, by name."""
        return self._output.files(self._deployed(model, number), number)

    def check_output(self) -> None:
        """Raise an `InputError` if a pattern of the `[output]` table matches no tensor of any row."""
        self._output.check_patterns()

    @contextmanager
    def timed(self) -> Iterator[Elapsed]:
        """Subtract the duration of the block from the budget; yield it."""
        started, elapsed = time.perf_counter(), Elapsed()
        yield elapsed
        elapsed.seconds = time.perf_counter() - started
        self._measurer.took(elapsed.seconds)

    def _core(self, stage: Stage, model: nn.Module) -> dict[str, Any]:
        folder = self._directory.stage(stage.number, stage.name)
        folder.write_all(self.files(model, stage.number))
        deployed = self._deployed(model, stage.number)
        return self._measurer.measure(deployed, folder.path, partial(self._on_measuring, stage))

    def _deployed(self, model: nn.Module, number: int) -> nn.Module:
        """Return the model as it is saved and measured; keep the last one, whose answers are needed again."""
        if self._latest[0] is not model:
            self._latest = model, self._output.deployed(model, number)
        return self._latest[1]

    def _by_techniques(
        self, stage: Stage, outcome: StageOutcome, watch: Watch, taken: Collection[str]
    ) -> dict[str, Any]:
        """Return the numbers of the stage's techniques, and the notes on their promises."""
        values: dict[str, Any] = {}
        watch.before_measure(outcome.model)
        for position, (use, prepared) in enumerate(zip(stage.uses, outcome.prepared, strict=True)):
            measured = named_measures(use, outcome.model, self._data, prepared)
            watch.after_hook(str(use.plugin), "in measure")
            again = any(name in taken or name in values for name in measured)  # one technique may come twice in a stage
            values.update({f"with.{position}.{name}" if again else name: value for name, value in measured.items()})
        return {**values, **watch.notes()}
