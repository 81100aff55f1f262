"""A run in progress: the baseline, the stages and the exports, in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from toolkit import masks
from toolkit.interruption import Stop
from toolkit.promises import Promises
from toolkit.promises.trainable import trained_later
from toolkit.promises.watch import Watch
from toolkit.recipe.read import PluginUse, Recipe, Stage
from toolkit.recipe.resolved import as_table, resolved_recipe
from toolkit.recipe.successors import successors
from toolkit.report import Report
from toolkit.report.writer import report_writer
from toolkit.rows import Row
from toolkit.runner.assembly import Assembly
from toolkit.runner.epochs import Epochs, stored_epochs
from toolkit.runner.export_rows import export_all
from toolkit.runner.exporting import EXPORTING
from toolkit.runner.measure_stage import MEASURED_WITH, Measuring
from toolkit.runner.observers import Observers
from toolkit.runner.row_times import RowTimes, times_of
from toolkit.runner.row_warnings import warn_about
from toolkit.runner.spoilt_times import Times
from toolkit.runner.stage import StageOutcome, perform, train
from toolkit.runner.stage_errors import errors_located_in
from toolkit.runner.stage_timer import stage_timer
from toolkit.runner.technique_numbers import descriptions
from toolkit.seeding import reseed
from toolkit.storage import run_directory as runs
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.results import Result, as_steps
from toolkit.storage.resume import StageStore
from toolkit.training import OnStep, Training, TrainingSettings

log = logging.getLogger("toolkit")


class RunInProgress:
    """The model and the row of every finished stage, and what computes the next ones."""

    def __init__(
        self,
        recipe: Recipe,
        assembly: Assembly,
        directory: runs.RunDirectory,
        observers: Iterable[PluginUse],
        environment: dict[str, Any],
        store: StageStore,
        stop: Stop,
    ) -> None:
        self.recipe, self.data, self.directory = recipe, assembly.data, directory
        self.environment, self.store, self.stop = environment, store, stop
        self.models: list[nn.Module] = [assembly.model]
        self.promises: list[Promises] = []  # by row
        self.rows: list[Row] = []
        self.times = RowTimes()
        self.export_starts: list[int] = []
        self.settings: dict[int, TrainingSettings] = {}
        self.params: dict[int, tuple[dict[str, Any] | None, ...]] = {}
        self.measuring = Measuring(recipe, assembly, directory, store.measuring_key, self._on_measuring)
        self.observers = Observers([*recipe.observers, report_writer(self.measuring.answers_of), *observers])

    def execute(self) -> Report:
        """Run all stages, write the last model as the run's artifact, and return the report."""
        self._write_recipe()
        with self.observers.told_of_failure(self.directory.path):
            self.observers.start(self.recipe, self.directory.path)
            with self.measuring:
                for stage in (self.recipe.baseline, *self.recipe.stages):
                    with errors_located_in(stage):
                        self._run_stage(stage)
            self.measuring.check_output()
            if self.recipe.exports:
                self._add_exports()
            self._repeat_spoilt_times()
            self._write_recipe()
            self.directory.write_all(self.measuring.files(self.models[-1], len(self.models) - 1))
            self.observers.end(self.report, self.directory.path)
        self.store.finish()
        return self.report

    @property
    def report(self) -> Report:
        """Report with the finished rows."""
        starts = (0, *(stage.start for stage in self.recipe.stages), *self.export_starts)[: len(self.rows)]
        return Report(
            name=self.recipe.name,
            seed=self.recipe.seed,
            rows=tuple(self.rows),
            environment=self.environment,
            numbers=descriptions(self.rows, [*self.recipe.uses, *self.observers.uses]),
            quality=self.data.quality,
            starts=starts,
            directory=self.directory.path,
        )

    def _run_stage(self, stage: Stage) -> None:
        self.stop.check()
        started = time.perf_counter()
        reseed(self.recipe.seed, stage.number)
        log.info("stage %d (%s) begins", stage.number, stage.name)
        self.observers.tell("on_stage", stage=stage)
        result = self.store.from_checkpoint(stage.number, self.models[0])
        if result is not None:
            result = self._restore(stage, result)
        else:
            with self.store.computing(stage.number):
                result = self.store.from_cache(stage.number, self.models[0])
                result = self._restore(stage, result) if result is not None else self._compute(stage, started)
                self.store.save(stage.number, result)
        self._add_row(stage, result, started)

    def _restore(self, stage: Stage, result: Result) -> Result:
        """Continue with the stored result of a stage, and repeat its steps to the observers."""
        model = result.model.to(self.data.device).eval()
        if stage.number:
            self.models.append(model)
        else:
            self.models[0] = model
        self._set_up(stage, result)
        on_step = self.observers.on_step(stage)
        for step, (loss, lr) in enumerate(result.steps.tolist(), start=1):
            on_step(step, len(result.steps), loss, lr)
        for epoch in stored_epochs(result.values):
            self.observers.tell("on_epoch", stage=stage, **epoch)
        return self.measuring.again(stage, result, model)

    def _compute(self, stage: Stage, started: float) -> Result:
        """Train or perform a stage, and measure its model."""
        checkpoints = self.store.training_checkpoints(stage.number)
        steps: list[tuple[float, float]] = []
        on_step = self.observers.on_step(stage, steps)
        tell = partial(self.observers.tell, "on_epoch", stage=stage)
        epochs = Epochs(stage, self.data, tell, validate=not self.recipe.is_rehearsal)
        watch = self._watch(stage) if stage.number else None
        if watch is None:
            outcome = self._baseline(stage, on_step, checkpoints, epochs)
        else:
            incoming = self.models[stage.start]
            later = tuple(successors(self.recipe.stages, stage))
            timer = stage_timer(self.recipe, stage, incoming, self.data, self.measuring.blocked)
            outcome = perform(
                stage, incoming, self.reference, self.data, on_step, watch, checkpoints, later, epochs, timer
            )
            self.models.append(outcome.model)
        promises = watch.promises if watch is not None else Promises().extended_by(outcome.model, "the baseline")
        params = tuple(None if resolved is None else as_table(resolved) for resolved in outcome.params)
        result = Result(outcome.model, {}, promises, as_steps(steps), outcome.settings, params=params)
        self._set_up(stage, result)
        self.stop.check()
        values = self.measuring.first(stage, outcome, watch)
        values |= warn_about(stage, result.steps[:, 0], self.recipe, result.model, self.data, values)
        values["duration_s"] = time.perf_counter() - started
        return replace(result, values=values)

    def _set_up(self, stage: Stage, result: Result) -> None:
        """Record what later stages and the resolved recipe need."""
        self.promises.append(result.promises)
        self.params[stage.number] = result.params
        if result.settings is not None:
            self.settings[stage.number] = result.settings
        if stage.number == 0:
            self.reference = masks.clone(self.models[0].eval()).requires_grad_(False)

    def _watch(self, stage: Stage) -> Watch:
        return Watch(
            stage,
            self.models[stage.start],
            self.reference,
            self.data,
            promises=self.promises[stage.start],
            trained_by=trained_later(self.recipe.stages, stage),
            on_breach=self.recipe.promises,
        )

    def _baseline(
        self, stage: Stage, on_step: OnStep, checkpoints: TrainingCheckpoints, epochs: Epochs
    ) -> StageOutcome:
        model = self.models[0]
        if stage.finetune is None:
            return StageOutcome(model)
        return train(model, Training(stage.finetune, self.data.task.loss), self.data, on_step, checkpoints, epochs)

    def _add_row(self, stage: Stage, result: Result, started: float) -> None:
        values = {name: value for name, value in result.values.items() if name != MEASURED_WITH}
        if result.reused:
            values |= {"reused": True, "measuring_s": 0.0, "duration_s": time.perf_counter() - started}
        with self.measuring.timed() as measuring:
            values.update(self.observers.measure(result.model, self.data))
        for name in ("measuring_s", "duration_s"):
            values[name] = values.get(name, 0.0) + measuring.seconds
        row = self.times.add(Row(stage.name, values))
        self.rows.append(row)
        log.info("stage %d (%s) done: %s", stage.number, stage.name, row.model_dump_json())
        self.observers.tell("on_row", stage=stage, row=row, report=self.report)

    def _add_exports(self) -> None:
        """Export the models of rows together, and add the rows of the files."""
        job, folder = self.measuring.export_job(self.models[0], self.rows[0]), self.directory.path / runs.EXPORTS
        export_all(self.recipe.exports, self.models, folder, job, self._on_export, self._add_export)

    def _add_export(self, stage: Stage, row: Row) -> None:
        row = self.times.add(row, same_device=self.data.device.type == "cpu")
        self.rows.append(row)
        self.export_starts.append(stage.start)
        log.info("export %d (%s) done: %s", stage.number, stage.name, row.model_dump_json())
        self.observers.tell("on_row", stage=stage, row=row, report=self.report)

    def _on_export(self, stage: Stage, activity: str) -> None:
        self.stop.check()
        if activity == EXPORTING:
            log.info("export %d (%s) begins", stage.number, stage.name)
            self.observers.tell("on_stage", stage=stage)
        else:
            self.observers.tell("on_progress", stage=stage, activity=activity, done=0.0, total=1.0)

    def _repeat_spoilt_times(self) -> None:
        """Time rows again that could not be compared with the baseline because the machine was too busy."""
        measuring, numbers = self.measuring, range(len(self.models))
        if self.times.repeat_spoilt(numbers, self._time_again, measuring.share_s, measuring.repeat_s):
            self.rows = self.times.comparable(self.rows)
            log.info("times of all rows: %s", [dict(times_of(row)) for row in self.rows])

    def _time_again(self, number: int, sizes: Sequence[int], budget_s: float) -> Times:
        stage = (self.recipe.baseline, *self.recipe.stages)[number]
        told = partial(self.observers.tell, "on_progress", stage=stage, activity="timing again", total=1.0)
        told(done=0.0)
        with errors_located_in(stage):
            times = self.measuring.time_again(stage, self.models[number], sizes, budget_s)
        told(done=1.0)
        return times

    def _on_measuring(self, stage: Stage, done_s: float, total_s: float) -> None:
        self.stop.check()
        self.observers.tell("on_progress", stage=stage, activity="measuring", done=done_s, total=total_s)

    def _write_recipe(self) -> None:
        threads, device = self.environment["threads"], self.data.device.type
        text = resolved_recipe(self.recipe, threads, device, self.settings, self.params)
        self.directory.write(runs.RECIPE, text)
