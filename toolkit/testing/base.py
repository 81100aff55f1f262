"""The parts that all clauses of the contract share: make a model, and run a stage of the technique on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.errors import TechniqueRefusal
from toolkit.hooks import loading as techniques
from toolkit.hooks.specs import hookimpl
from toolkit.params import Params
from toolkit.recipe.read import PluginUse, Stage
from toolkit.runner.stage import StageOutcome, perform
from toolkit.seeding import reseed
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.testing.toys import TOY_MODELS, toy_cnn, toy_data
from toolkit.timing import Timer
from toolkit.training import OnStep, Training, TrainingSettings, fit


class ContractBase:
    """The settings of a contract, and the helpers of its clauses."""

    technique: ClassVar[str]
    params: ClassVar[dict[str, Any]] = {}
    finetune: ClassVar[dict[str, Any] | None] = {"epochs": 1}
    toys: ClassVar[Sequence[str]] = tuple(TOY_MODELS)

    def make_model(self) -> nn.Module:
        """Return the model that the stage starts from, in clauses that do not try all toys."""
        return toy_cnn()

    def make_data(self) -> Data:
        """Return the data to train and measure on."""
        return toy_data()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run a clause with an argument `toy` once for each of the `toys`."""
        if "toy" in metafunc.fixturenames:
            metafunc.parametrize("toy", self.toys)

    def _loaded(self) -> techniques.Plugin:
        return techniques.load(self.technique)

    def _use(self) -> PluginUse:
        loaded = self._loaded()
        return PluginUse(loaded, loaded.params_class.model_validate(self.params, context={"directory": Path()}))

    def _stage(self, *before: PluginUse) -> Stage:
        use = self._use()
        trains = self.finetune is not None and use.params.trainable_in_stage
        return Stage(1, self.technique, (*before, use), 0, TrainingSettings(**self.finetune or {}) if trains else None)

    def _perform(
        self,
        model: nn.Module,
        *before: PluginUse,
        reference: nn.Module | None = None,
        data: Data | None = None,
        on_step: OnStep | None = None,
        checkpoints: TrainingCheckpoints | None = None,
        timer: Timer | None = None,
        stage: Stage | None = None,
    ) -> StageOutcome:
        reseed(0, 1)
        reference = reference if reference is not None else masks.clone(model)
        reference.eval().requires_grad_(False)
        data = data or self.make_data()
        stage = stage or self._stage(*before)
        return perform(stage, model.eval(), reference, data, on_step, checkpoints=checkpoints, timer=timer)

    def _perform_or_refuse(self, model: nn.Module, *before: PluginUse, data: Data | None = None) -> StageOutcome | None:
        """Run the stage; return None if the technique refuses the model in prepare or optimize."""
        try:
            return self._perform(model, *before, data=data)
        except TechniqueRefusal:
            return None

    def _trained(self, make: Callable[[], nn.Module] | None = None, seed: int = 0) -> nn.Module:
        kind = type(self)
        is_toy = make is not None or kind.make_model is ContractBase.make_model
        if is_toy and kind.make_data is ContractBase.make_data:
            return copy.deepcopy(_trained_toy(make or toy_cnn, seed))
        return _trained(make or self.make_model, self.make_data, seed)

    @torch.no_grad()
    def _logits(self, model: nn.Module) -> Tensor:
        data = self.make_data()
        return data.task.logits(data.task.forward(model.eval(), data.example(16)))


@cache
def _trained_toy(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    return _trained(make, toy_data, seed)  # nearly every clause of every technique starts from one of a few


def _trained(make: Callable[[], nn.Module], make_data: Callable[[], Data], seed: int) -> nn.Module:
    reseed(seed, 0)
    model = make()
    fit(model, Training(TrainingSettings(epochs=2, lr=1e-2), make_data().task.loss), make_data())
    return model


def made_up(**hooks: Any) -> PluginUse:
    """Return a technique with these hooks, to combine with the tested one in a stage."""
    from types import SimpleNamespace

    marked = {name: hookimpl(hook) for name, hook in hooks.items()}
    return PluginUse(techniques.from_module(SimpleNamespace(**marked), "another", "of the contract"), Params())


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all tensors of a model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two states are bit-identical."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def traces(model: nn.Module) -> dict[str, Any]:
    """Return what a hook may leave on each module in addition to tensors: hooks, attributes, class, train mode."""
    return {
        path: (type(module), sorted(vars(module)), module.training, sum(len(hooks) for hooks in _hooks(module)))
        for path, module in model.named_modules()
    }


def _hooks(module: nn.Module) -> list[Any]:
    return [value for name, value in vars(module).items() if name.endswith("_hooks") and hasattr(value, "__len__")]
