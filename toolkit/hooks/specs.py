"""The hooks. A technique is a module with functions of these names, marked `@toolkit.hookimpl`.

Each function takes any of the arguments below, by name, in any order, without defaults. A module may also have a class
`Params(toolkit.Params)`: the settings that a recipe can set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import nn

    from toolkit import Data, Note, Params, Recipe, Report, Row, Stage, Training
    from toolkit.timing import Timer

PROJECT = "toolkit"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class TechniqueHooks:
    """What a technique does with a model, in the order in which the runner calls it. Every hook is optional."""

    @hookspec(firstresult=True)
    def prepare(self, model: nn.Module, params: Params, data: Data, reference: nn.Module, timer: Timer) -> Any:
        """Get ready, and raise `toolkit.TechniqueError` for what cannot work.

        `model` is the stage's input model and must not be changed; `reference` is the trained baseline, frozen and in
        eval mode; `data` has no test split. The other hooks of this stage receive the return value as `prepared`.
        Where several techniques share a stage, each of them sees the same `model`. `timer.ratio(candidate)` times a
        model next to `model`, in the runtime that the recipe exports it to; keep the timer to ask it in later hooks.
        Whatever is decided by its answers belongs in `resolve`.
        """

    @hookspec(firstresult=True)
    def optimize(self, model: nn.Module, params: Params, data: Data, prepared: Any) -> nn.Module:
        """Return the model: masked, converted, or another one.

        `model` is the stage's own copy and may be changed in place. Whatever later stages must keep has to be in
        the returned model: a parametrization (`toolkit.masks`) keeps a weight in shape; a module that replaces a layer
        offers `dense_weight()`, or `dense_weights()` by name if the layer had several, and `replaces`, the name of the
        layer's class.
        """

    @hookspec(firstresult=True)
    def finetune(
        self,
        model: nn.Module,
        params: Params,
        data: Data,
        prepared: Any,
        training: Training,
        stages: tuple[Stage, ...],
    ) -> Training:
        """Say how to train, by returning `training.using(loss=…, after_step=…, weights=…, …)`.

        Called only if the recipe gives the stage a `finetune` table, once all techniques of the stage have optimized;
        the runner then trains once. A loss is `(outputs, batch) -> scalar` and wraps `training.loss`;
        `after_step(step, steps)` counts from 1; `weights` shows the network a function of a weight for each step;
        modules in `trained_along` are trained too and dropped at the end; `around_step(model)` returns a context
        manager for the forward pass and the loss of one step, in which to put hooks on layers; `samples` restricts the
        training to some positions of the train split. Losses and functions keep their state in modules. `stages` are
        the later stages that build on this one: `use.plugin.name` and `use.params` for every `use` in `stage.uses`.
        `model` is as `optimize` left it, in any mode; it trains in train mode.
        """

    @hookspec(firstresult=True)
    def finish(self, model: nn.Module, params: Params, data: Data, prepared: Any) -> nn.Module:
        """Return the model that the stage ends with: the trained one, changed in place or converted.

        Called once after the training, or after `optimize` if the stage does not train, in the order of the stage's
        techniques and before promises are checked. `model` is in eval mode; `data` has no test split. An interrupted
        run that resumes after the training calls it again on the trained model.
        """

    @hookspec(firstresult=True)
    def resolve(self, params: Params, prepared: Any) -> Params:
        """Return `params` with every choice that was made by timing in place of the `auto` that asked for it.

        Called once the stage is done. The runner writes the result into the resolved recipe, which then repeats the
        run on any machine, whatever its speed. Only for what does not follow from the recipe and the data.
        """

    @hookspec(firstresult=True)
    def measure(self, model: nn.Module, params: Params, data: Data, prepared: Any) -> dict[str, float | Note]:
        """Return numbers or notes about the stage's result; the report shows each as `<technique>.<name>`.

        `model` is the result, in eval mode, and must not be changed; `data` has its test split, for reporting only.
        """


class ObserverHooks:
    """Events of a run, for a run-wide plugin. It may add numbers to every row, and changes nothing else.

    Every hook may also take `params`, and all but `on_start` may take `prepared`, the return value of `on_start`.
    """

    @hookspec(firstresult=True)
    def on_start(self, params: Params, recipe: Recipe, directory: Path) -> Any:
        """Called when the recipe is valid and the run directory exists; nothing has been trained yet."""

    @hookspec
    def on_stage(self, params: Params, prepared: Any, stage: Stage) -> None:
        """Called when a stage begins; the baseline is stage 0."""

    @hookspec
    def on_step(
        self, params: Params, prepared: Any, stage: Stage, step: int, steps: int, loss: float, lr: float
    ) -> None:
        """Called after each training step; `step` counts from 1 to `steps` over all epochs of the stage."""

    @hookspec
    def on_epoch(
        self,
        params: Params,
        prepared: Any,
        stage: Stage,
        epoch: int,
        epochs: int,
        loss: float,
        validation: dict[str, float | None] | None,
    ) -> None:
        """Called after each epoch; `epoch` counts from 1 to `epochs`, `loss` is the mean training loss of the epoch.

        `validation` has the metrics of the model on the validation split, by name, the primary one first; it is None if
        the epoch was not validated.
        """

    @hookspec
    def on_progress(
        self, params: Params, prepared: Any, stage: Stage, activity: str, done: float, total: float
    ) -> None:
        """Called during slow work other than training, such as measuring; at its end `done` equals `total`."""

    @hookspec(firstresult=True)
    def measure(self, model: nn.Module, params: Params, data: Data, prepared: Any) -> dict[str, float | Note]:
        """Return numbers or notes about a row's model, the baseline's included; shown as `<plugin>.<name>`."""

    @hookspec
    def on_row(self, params: Params, prepared: Any, stage: Stage, row: Row, report: Report) -> None:
        """Called when a stage has been measured; `report` has all rows so far."""

    @hookspec
    def on_end(self, params: Params, prepared: Any, report: Report, directory: Path) -> None:
        """Called when all stages are done and the run directory is complete.

        Times may differ from those of `on_row` where they were taken again.
        """

    @hookspec
    def on_failure(self, params: Params, prepared: Any, error: BaseException, directory: Path) -> None:
        """Called instead of `on_end` if an error or an interruption ends the run; close what is open."""


class RuntimeHooks:
    """How a model becomes files of another runtime, and how these are run. `export` and `open` are required."""

    @hookspec(firstresult=True)
    def export(
        self, model: nn.Module, params: Params, example: Any, free_sizes: Any, folder: Path
    ) -> str | Generator[None, None, str | None] | None:
        """Write the model into `folder`, in files that need neither the toolkit nor the source code of the model.

        `model` is a copy on the CPU, in eval mode, without parametrizations; `example` has its inputs for two samples:
        a tensor, a tuple of tensors (arguments) or a dictionary (keywords). The number of samples must stay free.
        `free_sizes` has, in place of each tensor, the frozen set of its dimensions whose size differs between batches:
        0 for the samples, and others where a collation pads to the longest sample, for example.
        Raise `toolkit.TechniqueError` for a model that cannot be exported, and name the layer and the operation.
        Export inside `toolkit.operators.exporting()`: integer layers then call operators that can be translated.
        Return a sentence for the README next to the files, such as the names of inputs and outputs, or None.

        If a compiler works on in another process, `yield` while it does: other exports are written meanwhile. What
        follows waits for it. End the process in a `finally` clause, because an interrupted run closes the generator.
        """

    @hookspec(firstresult=True)
    def open(self, folder: str, params: Any, threads: int) -> Any:
        """Return a function that runs the files in `folder` on numpy arrays, on `threads` threads.

        Its source code runs alone, in a process in which neither the toolkit nor the plugin can be imported, and is
        written next to the files: it imports what it needs inside, and uses no other name of its module. `params` has
        the settings as attributes. The function takes what the model takes, and returns arrays in the same structure.
        """

    @hookspec(firstresult=True)
    def check(self, folder: Path) -> None:
        """Raise `toolkit.TechniqueError` if opening the files would read or run anything but them; open nothing.

        It is called before `open`, with files that somebody else may have written. A runtime without it has files that
        can hold code: those of an earlier run are opened with `--trust` only.
        """

    @hookspec(firstresult=True)
    def measure(self, folder: Path, params: Params) -> dict[str, float | Note]:
        """Return numbers or notes about the files: what the runtime does with each layer, for example."""
