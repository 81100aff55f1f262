"""One stage: all prepare, all optimize in the order written, all say how to train, then one training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.hooks.isolation import unchanged
from toolkit.hooks.results import require_model, require_params, require_training
from toolkit.params import Params
from toolkit.promises.watch import Watch
from toolkit.recipe.read import PluginUse, Stage
from toolkit.runner.stage_errors import attribute_errors_to
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.training import OnStep, Training, TrainingSettings, fit
from toolkit.training.precision import with_fixed_precision


@dataclass(frozen=True)
class StageOutcome:
    """A stage's model, what its techniques prepared, the loss of every epoch, the settings trained with, and each
    technique's params as they were resolved, None where they are the recipe's."""

    model: nn.Module
    prepared: tuple[Any, ...] = ()
    losses: tuple[float, ...] = ()
    settings: TrainingSettings | None = None
    params: tuple[Params | None, ...] = ()


def train(
    model: nn.Module,
    training: Training,
    data: Data,
    on_step: OnStep | None = None,
    keeper: TrainingCheckpoints | None = None,
) -> StageOutcome:
    """Train a model in place, in the precision that is asked for or found to be the faster one.

    What `keeper` keeps of an interrupted training goes on, in the precision that was found then.
    """
    if keeper is not None and keeper.settings is not None:
        training = replace(training, settings=keeper.settings)
    training = with_fixed_precision(model, training, data)
    losses = fit(model, training, data.without_test(), on_step, keeper)
    return StageOutcome(model, (), tuple(losses), training.settings)


def perform(
    stage: Stage,
    incoming: nn.Module,
    reference: nn.Module,
    data: Data,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
    keeper: TrainingCheckpoints | None = None,
) -> StageOutcome:
    """Run a stage's hooks and its training on a copy of `incoming`.

    Args:
        stage: its techniques, and how to train.
        incoming: the model that the stage starts from; not changed.
        reference: the baseline, frozen.
        data: its test split is kept from the techniques.
        on_step: told `(step, steps, loss, lr)` after each training step.
        watch: checks what the hooks do; by default against what `incoming` shows of earlier stages.
        keeper: keeps how far the training has come.
    """
    data = data.without_test()
    if stage.finetune is not None and not stage.finetune.augment:
        data = data.without_augmentation()  # known before training, so that a teacher's answers can be kept
    watch = watch or Watch(stage, incoming, reference, data)
    prepared = tuple(_prepare(use, incoming, reference, data, watch) for use in stage.uses)
    model = masks.clone(incoming)
    for use, ready in zip(stage.uses, prepared, strict=True):
        model = _optimize(use, model, data, ready)
        watch.after_optimize(use, model)
    outcome = StageOutcome(model)
    if stage.finetune is not None:
        training = _training(stage, model, data, prepared, watch)
        with attribute_errors_to(stage), unchanged(stage.technique_names, "while training"):
            outcome = train(model, training, data, on_step, keeper)
    watch.after_training(model.eval())
    params = tuple(_resolved(use, ready) for use, ready in zip(stage.uses, prepared, strict=True))
    return StageOutcome(model, prepared, outcome.losses, outcome.settings, params)


def _prepare(use: PluginUse, incoming: nn.Module, reference: nn.Module, data: Data, watch: Watch) -> Any:
    prepared = use.plugin.call("prepare", model=incoming, params=use.params, data=data, reference=reference)
    watch.after_hook(str(use.plugin), "in prepare")
    return prepared


def _optimize(use: PluginUse, model: nn.Module, data: Data, prepared: Any) -> nn.Module:
    technique = use.plugin
    if not technique.implements("optimize"):
        return model
    made = technique.call("optimize", model=model, params=use.params, data=data, prepared=prepared)
    return require_model(technique, made).to(data.device)


def _resolved(use: PluginUse, prepared: Any) -> Params | None:
    """The params with which the same would be done again, if the technique chose something itself."""
    if not use.plugin.implements("resolve"):
        return None
    made = require_params(use.plugin, use.plugin.call("resolve", params=use.params, prepared=prepared))
    return None if made == use.params else made


def _training(stage: Stage, model: nn.Module, data: Data, prepared: tuple[Any, ...], watch: Watch) -> Training:
    assert stage.finetune is not None
    training = Training(stage.finetune, data.task.loss)
    for use, ready in zip(stage.uses, prepared, strict=True):
        if use.plugin.implements("finetune"):
            made = use.plugin.call(
                "finetune", model=model, params=use.params, data=data, prepared=ready, training=training
            )
            training = require_training(use.plugin, made)
            watch.after_hook(str(use.plugin), "in finetune")
    return training
