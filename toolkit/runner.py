"""The order of a run: baseline, then each stage with its hooks, its training and its row; and nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from toolkit import artifact, masks, runs
from toolkit.assembly import Assembly, assemble, weight_files
from toolkit.environment import describe, fixed_threads
from toolkit.errors import ArtifactError, InputError, TechniqueError, ToolkitError, TrainingError, described
from toolkit.measured import Measurer, named_measures
from toolkit.observers import Observers
from toolkit.promises import Promises
from toolkit.promises.trainable import trained_later
from toolkit.promises.watch import Watch
from toolkit.recipe import Recipe, Stage, Step, read_recipe
from toolkit.report import Report, Row
from toolkit.report.writer import report_writer
from toolkit.resolved import resolved_recipe
from toolkit.seeding import reseed
from toolkit.stages import Outcome, perform, train
from toolkit.training import OnStep, Training, TrainingSettings

log = logging.getLogger("toolkit")


def run(
    recipe: str | Path | Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    observers: Iterable[Step] = (),
) -> Report:
    """Run a recipe and return its report; the run directory holds the model, the report and all that led to them.

    Args:
        recipe: a file, the name of a shipped recipe, or what `read_recipe` returned.
        overrides: new values by place, such as `{"stages.1.params.sparsity": 0.9}`.
        output: the run directory, by default `runs/<name of the recipe>`.
        overwrite: whether an existing run directory is replaced.
        observers: run-wide plugins besides those of the recipe.

    Raises:
        RecipeError: with every mistake in the recipe; nothing has been written then.
        ToolkitError: a stage failed; the stages done before it stay in the run directory.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, overrides)
    elif overrides:
        raise InputError("overrides are for a file or the name of a recipe: give them to read_recipe")
    path = Path(output) if output is not None else Path("runs") / recipe.name
    runs.RunDirectory.refuse_existing(path, overwrite)
    for file in weight_files(recipe):
        if file.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{file} lies in the run directory {path}, which this run replaces: take another --output")
    with fixed_threads(recipe.table.threads):
        assembly = assemble(recipe)
        directory = runs.RunDirectory.create(path, overwrite)
        with runs.logging_to(directory, log):
            return _Run(recipe, assembly, directory, observers).execute()


class _Run:
    """One run under way: the model and the row of every stage so far."""

    def __init__(
        self, recipe: Recipe, assembly: Assembly, directory: runs.RunDirectory, observers: Iterable[Step]
    ) -> None:
        self.recipe, self.data, self.directory = recipe, assembly.data, directory
        self.models: list[nn.Module] = [assembly.model]
        self.promises: list[Promises] = []  # by row: what its stage and those before it achieved
        self.rows: list[Row] = []
        self.settings: dict[int, TrainingSettings] = {}
        self.measurer = self._measurer()
        self.environment = describe(self.data.device)
        self.observers = Observers([*recipe.observers, report_writer(), *observers])

    def execute(self) -> Report:
        """Run all stages and leave the last one's model as the run's artifact."""
        self._write_recipe()
        self.observers.start(self.recipe, self.directory.path)
        with self.measurer:
            for stage in (self.recipe.baseline, *self.recipe.stages):
                with _named(stage):
                    self._run_stage(stage)
        self._write_recipe()
        self.directory.write_all(artifact.pack(self.models[-1]))
        self.observers.tell("on_end", report=self.report, directory=self.directory.path)
        return self.report

    @property
    def report(self) -> Report:
        """The rows so far."""
        starts = (0, *(stage.start for stage in self.recipe.stages))[: len(self.rows)]
        return Report(
            self.recipe.name,
            self.recipe.seed,
            tuple(self.rows),
            self.environment,
            self.data.quality,
            starts,
            self.directory.path,
        )

    def _run_stage(self, stage: Stage) -> None:
        started = time.perf_counter()
        reseed(self.recipe.seed, stage.number)
        log.info("stage %d (%s) begins", stage.number, stage.name)
        self.observers.tell("on_stage", stage=stage)
        watch = self._watch(stage) if stage.number else None
        if watch is None:
            outcome = self._baseline(stage)
        else:
            incoming = self.models[stage.start]
            outcome = perform(stage, incoming, self.reference, self.data, self._on_step(stage), watch)
            self.models.append(outcome.model)
            self.promises.append(watch.promises)
        if outcome.settings is not None:
            self.settings[stage.number] = outcome.settings
        self._add_row(stage, outcome, watch, started)

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

    def _baseline(self, stage: Stage) -> Outcome:
        model = self.models[0]
        outcome = Outcome(model)
        if stage.finetune is not None:
            outcome = train(model, Training(stage.finetune, self.data.task.loss), self.data, self._on_step(stage))
        self.reference = masks.clone(model.eval()).requires_grad_(False)
        self.promises.append(Promises().and_of(model, "the baseline"))
        return outcome

    def _on_step(self, stage: Stage) -> OnStep:
        def on_step(step: int, steps: int, loss: float, lr: float) -> None:
            self.observers.tell("on_step", stage=stage, step=step, steps=steps, loss=loss, lr=lr)

        return on_step

    def _add_row(self, stage: Stage, outcome: Outcome, watch: Watch | None, started: float) -> None:
        measuring = time.perf_counter()
        values = self._core_metrics(stage, outcome.model)
        core_s = time.perf_counter() - measuring
        if watch is not None:
            values.update(self._techniques_measures(stage, outcome, watch, values.keys()))
        values.update(self.observers.measure(outcome.model, self.data))
        if outcome.losses:
            values["training_loss"] = list(outcome.losses)
        now = time.perf_counter()
        self.measurer.took(now - measuring - core_s)
        row = Row(stage.name, {**values, "measuring_s": now - measuring, "duration_s": now - started})
        self.rows.append(row)
        log.info("stage %d (%s) done: %s", stage.number, stage.name, row.to_json())
        self.observers.tell("on_row", stage=stage, row=row, report=self.report)

    def _techniques_measures(
        self, stage: Stage, outcome: Outcome, watch: Watch, taken: Collection[str]
    ) -> dict[str, Any]:
        """What the stage's techniques measure, which may not change anything, and what was noted while they worked."""
        values: dict[str, Any] = {}
        watch.before_measure(outcome.model)
        for position, (step, prepared) in enumerate(zip(stage.steps, outcome.prepared, strict=True)):
            measured = named_measures(step, outcome.model, self.data, prepared)
            watch.after_hook(str(step.technique), "in measure")
            again = any(name in taken or name in values for name in measured)  # one technique may come twice in a stage
            values.update({f"with.{position}.{name}" if again else name: value for name, value in measured.items()})
        return {**values, **watch.notes()}

    def _core_metrics(self, stage: Stage, model: nn.Module) -> dict[str, Any]:
        folder = self.directory.stage(stage.number, stage.name)
        size = folder.write_all(artifact.pack(model))

        def on_progress(done_s: float, total_s: float) -> None:
            self.observers.tell("on_progress", stage=stage, activity="measuring", done=done_s, total=total_s)

        return {"size_bytes": size, **self.measurer.measure(model, folder.path, on_progress)}

    def _measurer(self) -> Measurer:
        default = {1, min(self.data.batch_size, self.data.samples("train"))}
        batch_sizes = self.recipe.measure.batch_sizes or sorted(default)
        rows = len(self.recipe.stages) + 1
        return Measurer(self.models[0], self.data, batch_sizes, self.recipe.measure.budget, rows)

    def _write_recipe(self) -> None:
        text = resolved_recipe(self.recipe, self.environment["threads"], self.data.device.type, self.settings)
        self.directory.write(runs.RECIPE, text)


@contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Errors of a technique or a training, with the stage in which they came up."""
    try:
        yield
    except (TechniqueError, TrainingError) as error:
        raise type(error)(f"stage {stage.number} ({stage.name}): {error}") from error
    except ArtifactError as error:
        message = f"stage {stage.number} ({stage.name}): the model that {stage.techniques} returned: {error}"
        raise TechniqueError(message) from error
    except ToolkitError:
        raise
    except Exception as error:  # from a model, a data set or a task of the user's; the log has the traceback
        raise ToolkitError(f"stage {stage.number} ({stage.name}) failed with {described(error)}") from error
