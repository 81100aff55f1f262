"""The rehearsal at the beginning of a run: every stage on one batch, before a long training."""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from toolkit import masks
from toolkit import model_files as artifact
from toolkit.data.splits import Data
from toolkit.errors import ToolkitError
from toolkit.exports.files import export_model
from toolkit.metrics import all_metrics
from toolkit.metrics.support.measurer import Measurer
from toolkit.promises import Promises
from toolkit.promises.trainable import trained_later
from toolkit.promises.watch import Watch
from toolkit.recipe.read import Recipe, Stage
from toolkit.runner.assembly import Assembly
from toolkit.runner.output import Output
from toolkit.runner.reduced_data import reduced
from toolkit.runner.stage import perform, train
from toolkit.runner.stage_errors import errors_located_in
from toolkit.runner.technique_numbers import named_measures
from toolkit.seeding import preserve_generators, reseed
from toolkit.tasks import to_float32
from toolkit.training import Training, TrainingSettings

log = logging.getLogger("toolkit")
rehearsal_log = logging.getLogger("toolkit.rehearsal")  # what is being done, for a terminal that shows it

THRESHOLD_S = 10.0  # of training; a rehearsal takes seconds itself
REMEDY = "the rehearsal on one batch fails, so nothing was trained; pass --no-rehearsal to train nevertheless"


def rehearse_first_batch(recipe: Recipe, assembly: Assembly, rows: Collection[int]) -> None:
    """Run every stage on one batch if the trainings of `rows` take longer than `THRESHOLD_S` together.

    The model, the data and the random generators stay as they are, except for generators of a user's own dataset. A
    stage after a failed one runs too, unless the failed one was to replace or convert the model. If no stage fails, the
    metrics that take little time measure every row.

    Raises:
        ToolkitError: one or more stages fail, or a metric; the message has one line for each.
    """
    with preserve_generators(), _quiet():
        if estimated_training_s(recipe, assembly, rows) < THRESHOLD_S:
            return
        errors = _FirstBatch(recipe, assembly).errors()
    if errors:
        error_class = type(errors[0]) if len({type(error) for error in errors}) == 1 else ToolkitError
        raise error_class("\n".join([*map(str, errors), REMEDY]))


def estimated_training_s(recipe: Recipe, assembly: Assembly, rows: Collection[int]) -> float:
    """Return the estimated duration of the trainings of some rows, by one timed step of the baseline on each sample."""
    stages = (recipe.baseline, *recipe.stages)
    epochs = sum(stage.finetune.epochs for stage in stages if stage.finetune is not None and stage.number in rows)
    return epochs * assembly.data.samples("train") * _sample_s(assembly) if epochs else 0.0


def _sample_s(assembly: Assembly) -> float:
    """Return the time of a training step per sample; infinity if it fails, because the rehearsal reports the error."""
    data = assembly.data
    order = torch.arange(min(data.batch_size, data.samples("train")))
    try:
        model = masks.clone(assembly.model).train()
        for _ in range(2):  # the first step allocates memory
            started = time.perf_counter()
            batch = next(iter(data.training_batches(order, len(order))))
            loss = data.task.loss(to_float32(data.task.forward(model, batch)), batch)
            loss.backward()
            loss.item()  # waits for a GPU
    except Exception:
        return math.inf
    return (time.perf_counter() - started) / len(order)


class _FirstBatch:
    """The models of all rows after one batch; None if the stage of a row cannot run after a failed one."""

    def __init__(self, recipe: Recipe, assembly: Assembly) -> None:
        self._recipe, self._data = recipe, assembly.data
        self._stages = (recipe.baseline, *recipe.stages)
        self._output = Output(recipe.table.output)
        self._models: list[nn.Module | None] = []
        self._promises: list[Promises] = []
        self._initial = assembly.model
        self._reference = masks.clone(assembly.model.eval()).requires_grad_(False)

    def errors(self) -> list[ToolkitError]:
        """Run all stages, and return their errors; if there are none, the first error of a metric."""
        errors: list[ToolkitError] = []
        for stage in self._stages:
            reseed(self._recipe.seed, stage.number)
            rehearsal_log.info("trying %s on one batch", stage.label)
            try:
                with errors_located_in(stage):
                    model, promises = self._run(stage)
            except ToolkitError as error:
                errors.append(error)
                model, promises = self._after_failure(stage)
            self._models.append(model)
            self._promises.append(promises)
        errors += self._export_errors()
        if errors:
            return errors
        self._output.check_patterns()
        return self._metric_errors()

    def _export_errors(self) -> Iterator[ToolkitError]:
        """Write the files of every export whose model is there; whether they match needs a trained model."""
        for number, export in enumerate(self._recipe.exports, start=len(self._models)):
            model, stage = self._models[export.start], Stage(number, export.name, start=export.start)
            if model is None:
                continue
            rehearsal_log.info("trying export '%s' on one batch", export.name)
            try:
                with errors_located_in(stage, f"export '{export.name}'"), TemporaryDirectory() as folder:
                    export_model(export.use.plugin, export.use.params, model, self._data, Path(folder) / "files")
            except ToolkitError as error:
                yield error

    def _run(self, stage: Stage) -> tuple[nn.Module | None, Promises]:
        settings = stage.finetune and _one_epoch(stage.finetune)
        batch_size = (settings and settings.batch_size) or self._data.batch_size
        data = reduced(self._data, batch_size)
        if not stage.number:
            return self._baseline(settings, data)
        incoming = self._models[stage.start]
        if incoming is None:
            return None, Promises()
        watch = Watch(
            stage,
            incoming,
            self._reference,
            data.without_test(),
            promises=self._promises[stage.start],
            trained_by=trained_later(self._recipe.stages, stage),
            on_breach=self._recipe.promises,
        )
        outcome = perform(replace(stage, finetune=settings), incoming, self._reference, data, watch=watch)
        self._check_files(outcome.model, stage.number)
        for use, prepared in zip(stage.uses, outcome.prepared, strict=True):
            named_measures(use, outcome.model, data, prepared)
        return outcome.model, watch.promises

    def _baseline(self, settings: TrainingSettings | None, data: Data) -> tuple[nn.Module, Promises]:
        model = masks.clone(self._initial)
        if settings is not None:
            train(model, Training(settings, data.task.loss), data)
        self._check_files(model, 0)
        return model, Promises().extended_by(model, "the baseline")

    def _check_files(self, model: nn.Module, number: int) -> None:
        artifact.take_apart(model, fold=False)  # the checkpoint of the stage
        self._output.files(self._output.deployed(model, number), number)

    def _metric_errors(self) -> list[ToolkitError]:
        """Measure the rows until a metric fails, and return its error."""
        metrics = {name: metric for name, metric in all_metrics().items() if metric.rehearsed}
        models = [model.eval() for model in self._models if model is not None]
        data = reduced(self._data, self._data.batch_size)
        rehearsal_log.info("measuring every row on one batch")
        try:
            with Measurer(models[0], data, [1], 0.0, len(models), metrics) as measurer:
                for stage, model in zip(self._stages, models, strict=True):
                    with errors_located_in(stage):
                        self._measure(measurer, self._output.deployed(model, stage.number), stage.number)
        except ToolkitError as error:
            return [error]
        return []

    def _measure(self, measurer: Measurer, deployed: nn.Module, number: int) -> None:
        with tempfile.TemporaryDirectory(prefix="toolkit-rehearsal-") as folder:
            for name, content in self._output.files(deployed, number).items():
                Path(folder, name).write_bytes(content)
            measurer.measure(deployed, Path(folder))

    def _after_failure(self, stage: Stage) -> tuple[nn.Module | None, Promises]:
        """Return the stage's input in place of its output, or None if the stage was to replace or convert it."""
        if not stage.number:
            return masks.clone(self._initial), Promises()
        if any(use.params.replaces_model or not use.params.trainable_after for use in stage.uses):
            return None, Promises()
        return self._models[stage.start], self._promises[stage.start]


def _one_epoch(settings: TrainingSettings) -> TrainingSettings:
    """Return settings for one step; timing both precisions for `auto` would take longer than the step."""
    precision = "float32" if settings.precision == "auto" else settings.precision
    return settings.model_copy(update={"epochs": 1, "precision": precision})


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings, which the run itself repeats."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
