"""What every technique keeps to, as tests to inherit: the runner, the report and all other techniques rely on it."""

from __future__ import annotations

import signal
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toolkit import artifact, masks, techniques
from toolkit.errors import TechniqueRefusal
from toolkit.interruption import Interrupted, Stop
from toolkit.measured import named_measures
from toolkit.recipe import Stage, Step
from toolkit.runs import RunDirectory
from toolkit.seeding import reseed
from toolkit.stages import Outcome, perform
from toolkit.storage.checkpoints import TrainingKeeper
from toolkit.tasks import Data
from toolkit.testing.toys import toy_cnn, toy_data
from toolkit.training import OnStep, Training, TrainingSettings, fit


class TechniqueContract:
    """Inherit, set `technique` to the name of the entry point, and let pytest collect the tests.

    `params` is what a recipe would say; `finetune` is the stage's training, or None for a technique after which
    nothing can be trained. Override `make_model` and `make_data` where the toys do not suit the technique.
    """

    technique: ClassVar[str]
    params: ClassVar[dict[str, Any]] = {}
    finetune: ClassVar[dict[str, Any] | None] = {"epochs": 1}

    def make_model(self) -> nn.Module:
        """The model that the stage starts from."""
        return toy_cnn()

    def make_data(self) -> Data:
        """What it is trained and measured on."""
        return toy_data()

    def test_every_param_has_a_default_and_a_description(self) -> None:
        for name, field in self._loaded().params_class.model_fields.items():
            assert not field.is_required(), f"give the param '{name}' a default"
            assert field.description, f"give the param '{name}' a description"

    def test_the_input_model_and_the_reference_are_left_alone(self) -> None:
        model, reference = self._trained(), self._trained(seed=1)
        before = [_state(model), _state(reference)]
        self._perform(model, reference=reference)
        for name, network, state in zip(("model", "reference"), (model, reference), before, strict=True):
            assert _equal(_state(network), state), f"prepare must not change the {name}: change what optimize is given"

    def test_the_result_has_outputs_of_the_same_shape_and_keeps_zeros(self) -> None:
        model = self._trained()
        path = max(masks.named_weights(model), key=lambda weight: weight.parameter.numel()).path
        weight = model.get_parameter(path)
        masks.apply(model, {path: torch.arange(weight.numel()).view_as(weight) % 2 == 0})
        self._perform(model)  # raises a TechniqueError that says which shape was found, or what was refilled

    def test_the_same_seed_gives_the_same_result(self) -> None:
        results = [_state(self._perform(self._trained()).model) for _ in range(2)]
        assert _equal(*results), "draw from torch's global generator, which the runner seeds, and from nothing else"

    def test_an_interrupted_training_goes_on_to_the_same_result(self, tmp_path: Path) -> None:
        whole: list[int] = []
        expected = _state(self._perform(self._trained(), on_step=lambda step, *_: whole.append(step)).model)
        if not whole:  # it is not trained
            return
        directory, stop = RunDirectory(tmp_path), Stop()

        def halfway(step: int, *_: float) -> None:
            if step == max(1, len(whole) // 2):
                stop.take(signal.SIGINT, None)

        with suppress(Interrupted):
            self._perform(self._trained(), on_step=halfway, keeper=TrainingKeeper(directory, "contract", stop))
        keeper = TrainingKeeper(directory, "contract", Stop())
        assert keeper.settings is not None, "a training was interrupted, and nothing of it was kept"
        assert _equal(_state(self._perform(self._trained(), keeper=keeper).model), expected), (
            "losses and step functions keep what they remember in modules (trained_along), or an interrupted training "
            "goes on to another result"
        )

    def test_the_result_survives_saving(self, tmp_path: Path) -> None:
        model = self._perform(self._trained()).model
        for name, content in artifact.pack(model).items():
            (tmp_path / name).write_bytes(content)
        loaded = artifact.load(tmp_path)
        assert torch.equal(self._logits(loaded), self._logits(model)), (
            "a module of the technique keeps something that is neither a parameter, a buffer nor a plain value"
        )

    def test_the_result_can_be_cloned(self) -> None:
        model = self._perform(self._trained()).model
        assert torch.equal(self._logits(masks.clone(model)), self._logits(model))

    def test_it_tells_the_truth_about_training(self) -> None:
        step = self._step()
        if not step.params.trainable_after:
            assert self.finetune is None, "trainable_after is False: set finetune to None"
            return
        model = self._perform(self._trained()).model
        fit(model, Training(TrainingSettings(epochs=1), self.make_data().task.loss), self.make_data())

    def test_it_measures_numbers_or_notes(self) -> None:
        outcome = self._perform(self._trained())
        named_measures(self._step(), outcome.model, self.make_data(), outcome.prepared[0])

    def test_it_may_come_twice(self) -> None:
        once = self._perform(self._trained()).model
        with suppress(TechniqueRefusal):  # it may well refuse, but not fail
            self._perform(once)

    def test_global_state_of_torch_is_left_alone(self) -> None:
        before = _global_state()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._perform(self._trained())
        assert _global_state() == before, "restore threads, default dtype, grad mode and determinism"
        deprecated = [str(warning.message) for warning in caught if "deprecated" in str(warning.message).lower()]
        assert not deprecated, f"users would see: {deprecated}"

    def _loaded(self) -> techniques.Technique:
        return techniques.load(self.technique)

    def _step(self) -> Step:
        loaded = self._loaded()
        return Step(loaded, loaded.params_class.model_validate(self.params, context={"directory": Path()}))

    def _stage(self) -> Stage:
        training = None if self.finetune is None else TrainingSettings(**self.finetune)
        return Stage(1, self.technique, (self._step(),), 0, training)

    def _perform(
        self,
        model: nn.Module,
        reference: nn.Module | None = None,
        on_step: OnStep | None = None,
        keeper: TrainingKeeper | None = None,
    ) -> Outcome:
        reseed(0, 1)
        reference = (reference if reference is not None else masks.clone(model)).eval().requires_grad_(False)
        return perform(self._stage(), model, reference, self.make_data(), on_step, keeper=keeper)

    def _trained(self, seed: int = 0) -> nn.Module:
        reseed(seed, 0)
        model = self.make_model()
        fit(model, Training(TrainingSettings(epochs=2, lr=1e-2), self.make_data().task.loss), self.make_data())
        return model

    @torch.no_grad()
    def _logits(self, model: nn.Module) -> Tensor:
        data = self.make_data()
        return data.task.logits(data.task.forward(model.eval(), data.example(16)))


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _global_state() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
