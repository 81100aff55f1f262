"""One stage: its techniques prepare, optimize in the order written and say how to train; the stage trains once, and its
techniques finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.hooks.isolation import unchanged
from toolkit.hooks.results import require_model, require_params, require_training
from toolkit.params import Params
from toolkit.promises.watch import Watch
from toolkit.recipe.read import PluginUse, Stage
from toolkit.runner.epochs import Epochs
from toolkit.runner.stage_errors import attribute_errors_to
from toolkit.runner.stage_timer import counting_timer
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.timing import Timer
from toolkit.training import OnStep, Training, TrainingSettings, fit
from toolkit.training.precision import with_fixed_precision


@dataclass(frozen=True)
class StageOutcome:
    """The result of a stage.

    Attributes:
        model: the stage's model, in eval mode.
        prepared: what each technique's `prepare` returned.
        losses: mean loss of every epoch.
        settings: settings of the training, with the precision that was used; None without a training.
        params: by technique the params with its choices in them, None if they are the recipe's.
        validation: by metric the value after every epoch, None for an epoch that was not validated.
    """

    model: nn.Module
    prepared: tuple[Any, ...] = ()
    losses: tuple[float, ...] = ()
    settings: TrainingSettings | None = None
    params: tuple[Params | None, ...] = ()
    validation: Mapping[str, list[float | None]] = field(default_factory=dict)


def train(
    model: nn.Module,
    training: Training,
    data: Data,
    on_step: OnStep | None = None,
    checkpoints: TrainingCheckpoints | None = None,
    epochs: Epochs | None = None,
) -> StageOutcome:
    """Train a model in place, in the precision of the settings or in the faster one.

    An interrupted training resumes from its checkpoint, in the precision that it was using.
    """
    if checkpoints is not None and checkpoints.settings is not None:
        training = replace(training, settings=checkpoints.settings)
    training = with_fixed_precision(model, training, data)
    losses = fit(model, training, data.without_test(), on_step, checkpoints, epochs)
    validation = epochs.series if epochs is not None else {}
    return StageOutcome(model, (), tuple(losses), training.settings, validation=validation)


def perform(
    stage: Stage,
    incoming: nn.Module,
    reference: nn.Module,
    data: Data,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
    checkpoints: TrainingCheckpoints | None = None,
    later: Sequence[Stage] = (),
    epochs: Epochs | None = None,
    timer: Timer | None = None,
) -> StageOutcome:
    """Run a stage's hooks and its training on a copy of `incoming`.

    Args:
        stage: its techniques, and how to train.
        incoming: the model that the stage starts from; not changed.
        reference: the baseline, frozen.
        data: the techniques do not see its test split.
        on_step: called with `(step, steps, loss, lr)` after each training step.
        watch: checks what the hooks do; by default against the promises that `incoming` shows.
        checkpoints: stored states of the training.
        later: the stages that build on the result.
        epochs: what happens after each epoch.
        timer: for techniques that decide by timing; by default it counts multiply-accumulates.
    """
    data = data.without_test()
    if stage.finetune is not None and not stage.finetune.augment:
        data = data.without_augmentation()  # already in prepare: a teacher's outputs can then be cached
    watch = watch or Watch(stage, incoming, reference, data)
    timer = (timer or counting_timer(incoming, data)).knowing(checkpoints.times if checkpoints is not None else ())
    prepared = tuple(_prepare(use, incoming, reference, data, watch, timer) for use in stage.uses)
    model = masks.clone(incoming)
    for use, ready in zip(stage.uses, prepared, strict=True):
        model = _changed_by("optimize", use, model, data, ready)
        watch.after_optimize(use, model)
    outcome = StageOutcome(model)
    if stage.finetune is not None:
        training = _training(stage, model, data, prepared, watch, tuple(later))
        if checkpoints is not None:
            checkpoints.times = timer.answers
        with attribute_errors_to(stage), unchanged(stage.technique_names, "while training"):
            outcome = train(model, training, data, on_step, checkpoints, epochs)
    model = _finished(stage, model.eval(), data, prepared, watch)
    params = tuple(_resolved(use, ready) for use, ready in zip(stage.uses, prepared, strict=True))
    return StageOutcome(model, prepared, outcome.losses, outcome.settings, params, outcome.validation)


def _prepare(use: PluginUse, incoming: nn.Module, reference: nn.Module, data: Data, watch: Watch, timer: Timer) -> Any:
    prepared = use.plugin.call(
        "prepare", model=incoming, params=use.params, data=data, reference=reference, timer=timer
    )
    watch.after_hook(str(use.plugin), "in prepare")
    return prepared


def _changed_by(hook: str, use: PluginUse, model: nn.Module, data: Data, prepared: Any) -> nn.Module:
    if not use.plugin.implements(hook):
        return model
    result = use.plugin.call(hook, model=model, params=use.params, data=data, prepared=prepared)
    return require_model(use.plugin, result, hook).to(data.device)


def _training(
    stage: Stage, model: nn.Module, data: Data, prepared: tuple[Any, ...], watch: Watch, later: tuple[Stage, ...]
) -> Training:
    assert stage.finetune is not None
    training = Training(stage.finetune, data.task.loss)
    for use, ready in zip(stage.uses, prepared, strict=True):
        if use.plugin.implements("finetune"):
            result = use.plugin.call(
                "finetune",
                model=model,
                params=use.params,
                data=data,
                prepared=ready,
                training=replace(training, owner=str(use.plugin)),
                stages=later,
            )
            training = require_training(use.plugin, result)
            watch.after_hook(str(use.plugin), "in finetune")
    return training


def _finished(stage: Stage, model: nn.Module, data: Data, prepared: tuple[Any, ...], watch: Watch) -> nn.Module:
    watch.after_training(model)
    for use, ready in zip(stage.uses, prepared, strict=True):
        if use.plugin.implements("finish"):
            model = _changed_by("finish", use, model, data, ready).eval()
            watch.after_finish(use, model)
    watch.at_end(model)
    return model


def _resolved(use: PluginUse, prepared: Any) -> Params | None:
    """Return the params that repeat the technique's own choices, None if they are the recipe's."""
    if not use.plugin.implements("resolve"):
        return None
    params = require_params(use.plugin, use.plugin.call("resolve", params=use.params, prepared=prepared))
    return None if params == use.params else params
