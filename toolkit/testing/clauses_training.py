"""Clauses about training: in the technique's own stage, together with other techniques, and in later stages."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit.interruption import Interrupted, Stop
from toolkit.runner.stage import perform
from toolkit.seeding import reseed
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.run_directory import RunDirectory
from toolkit.tasks import Batch
from toolkit.testing.base import ContractBase, made_up, same, state_of
from toolkit.testing.toys import TOY_MODELS
from toolkit.training import Training, TrainingSettings, fit

CONTRACT = "contract"


class TrainingClauses(ContractBase):
    """Whether a technique trains as it declares, and preserves what other techniques added."""

    def test_it_tells_the_truth_about_training(self, toy: str) -> None:
        outcome = self._perform_or_refuse(self._trained(TOY_MODELS[toy]))
        if outcome is None or not self._use().params.trainable_after:
            return
        before = state_of(outcome.model)
        fit(outcome.model, Training(TrainingSettings(epochs=1), self.make_data().task.loss), self.make_data())
        assert not same(state_of(outcome.model), before), (
            "a later training changes nothing; leave requires_grad on, or let Params.trainable_after be False"
        )

    def test_masks_of_the_result_survive_a_later_training(self) -> None:
        model = self._perform(self._trained()).model
        zeros = {path: ~mask for path, mask in masks.current(model).items()}
        if not self._use().params.trainable_after:
            return
        fit(model, Training(TrainingSettings(epochs=1, weight_decay=0.1), self.make_data().task.loss), self.make_data())
        values = {weight.path: weight.value for weight in masks.named_weights(model)}
        refilled = [path for path, zero in zeros.items() if path not in values or values[path][zero].any()]
        assert not refilled, f"zeros of {refilled} are gone; mask weights with toolkit.masks only"

    def test_an_interrupted_training_goes_on_to_the_same_result(self, tmp_path: Path) -> None:
        steps: list[int] = []
        expected = state_of(self._perform(self._trained(), on_step=lambda step, *_: steps.append(step)).model)
        if not steps:  # it is not trained
            return
        resumed = self._resumed_after(max(1, len(steps) // 2), tmp_path)
        assert same(resumed, expected), (
            "an interrupted training ends with another result; keep the state of losses and functions in modules "
            "(trained_along)"
        )

    def test_a_run_interrupted_after_its_training_finishes_with_the_same_result(self, tmp_path: Path) -> None:
        steps: list[int] = []
        expected = state_of(self._perform(self._trained(), on_step=lambda step, *_: steps.append(step)).model)
        if not steps:
            return
        assert same(self._resumed_after(len(steps), tmp_path), expected), (
            "a second call of finish on the trained model returns another result; compute it from the model, params, "
            "data and prepared alone"
        )

    def _resumed_after(self, step: int, folder: Path) -> dict[str, Tensor]:
        self._interrupted(RunDirectory(folder), step)
        checkpoints = TrainingCheckpoints(RunDirectory(folder), CONTRACT, Stop())
        assert checkpoints.settings is not None, "a training was interrupted and no checkpoint of it was stored"
        return state_of(self._perform(self._trained(), checkpoints=checkpoints).model)

    def _interrupted(self, directory: RunDirectory, last: int) -> None:
        stop = Stop()

        def on_step(step: int, *_: float) -> None:
            if step == last:
                stop.handle(signal.SIGINT, None)

        with suppress(Interrupted):
            checkpoints = TrainingCheckpoints(directory, CONTRACT, stop)
            self._perform(self._trained(), on_step=on_step, checkpoints=checkpoints)

    def test_it_adds_to_the_training_that_it_is_given(self) -> None:
        if self._stage().finetune is None or not self._loaded().implements("finetune"):
            return
        calls: set[str] = set()
        helper = nn.Linear(1, 1)

        def after_step(_step: int, _steps: int) -> None:
            calls.add("step function")

        def around_step(model: nn.Module) -> AbstractContextManager[nn.Module]:
            calls.add("context")
            return nullcontext(model)

        def seen(weight: Tensor) -> Tensor:
            calls.add("weight function")
            return weight

        def finetune(model: nn.Module, training: Training) -> Training:
            weights = {weight.path: seen for weight in list(masks.named_weights(model))[:1]}
            return training.using(after_step=after_step, trained_along=helper, around_step=around_step, weights=weights)

        results: list[Training] = []

        def look(training: Training) -> Training:
            results.append(training)
            return training

        self._perform_between(made_up(finetune=finetune), made_up(finetune=look))
        assert helper in results[0].modules, "finetune dropped another technique's module; return training.using(…)"
        for part in ("step function", "context", "weight function"):
            assert part in calls, f"finetune dropped another technique's {part}; return training.using(…)"

    def test_its_loss_is_a_scalar_with_a_gradient(self) -> None:
        stage = self._stage()
        if stage.finetune is None or not self._loaded().implements("finetune"):
            return

        def finetune(training: Training) -> Training:
            def loss(outputs: Any, batch: Batch) -> Tensor:
                value = training.loss(outputs, batch)
                assert value.shape == torch.Size(), "its loss must be one number; take the mean"
                assert value.dtype == torch.float32, "its loss must be float32; convert it"
                assert value.requires_grad, "its loss has no gradient; compute it from the outputs"
                return value

            return training.using(loss=loss)

        self._perform_between(None, made_up(finetune=finetune))

    def _perform_between(self, before: Any, after: Any) -> None:
        stage = self._stage()
        uses = [use for use in (before, *stage.uses, after) if use is not None]
        model = self._trained()
        reseed(0, 1)
        reference = masks.clone(model).eval().requires_grad_(False)
        perform(replace(stage, uses=tuple(uses)), model, reference, self.make_data())
