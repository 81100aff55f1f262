"""Clauses about the model that a technique returns, and about those that it may only look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from toolkit import masks
from toolkit import model_files as artifact
from toolkit.errors import TechniqueRefusal
from toolkit.runner.stage_timer import counting_timer
from toolkit.testing.base import ContractBase, made_up, same, state_of, traces
from toolkit.testing.toys import CLASSES, TOY_MODELS, toy_mlp


class ModelClauses(ContractBase):
    """Properties of models before and after a stage."""

    def test_it_works_on_every_toy_model_or_refuses(self, toy: str) -> None:
        outcome = self._perform_or_refuse(self._trained(TOY_MODELS[toy]))
        if outcome is not None:
            finite = all(tensor.isfinite().all() for tensor in outcome.model.state_dict().values())
            assert finite, "its weights are not finite; raise TechniqueError for what cannot work"

    def test_it_works_on_one_toy_model(self) -> None:
        refusals = []
        for toy in self.toys:
            try:
                self._perform(self._trained(TOY_MODELS[toy]))
                return
            except TechniqueRefusal as refusal:
                refusals.append(f"{toy}: {refusal}")
        raise AssertionError(f"it refuses every toy model ({'; '.join(refusals)}); give the contract params that work")

    def test_it_refuses_a_model_without_weights_or_leaves_it(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(CLASSES))
        stage = self._stage()
        if stage.finetune is None:  # which such a model cannot take part in
            self._perform_or_refuse(model)  # anything but a TechniqueError raised on purpose is a failure
            return
        use = self._use()
        data = self.make_data().without_test()
        timer = counting_timer(model, data)
        try:
            use.plugin.call("prepare", model=model, params=use.params, data=data, reference=model, timer=timer)
        except TechniqueRefusal:
            return

    def test_the_input_model_and_the_reference_are_left_alone(self) -> None:
        model, reference = self._trained().eval(), self._trained(seed=1).eval()
        guarded = {"model": model, "reference": reference}
        states = {name: state_of(network) for name, network in guarded.items()}
        left = {name: traces(network) for name, network in guarded.items()}
        self._perform(model, reference=reference)
        for name, network in guarded.items():
            advice = "change the model that optimize receives, or a toolkit.masks.clone"
            assert same(state_of(network), states[name]), f"prepare must not change the {name}; {advice}"
            changed = [path or "the model itself" for path, was in left[name].items() if traces(network)[path] != was]
            assert not changed, f"hooks, attributes or train mode are left on the {name} at {changed}; {advice}"

    def test_the_result_has_outputs_of_the_same_shape_and_keeps_zeros(self, toy: str) -> None:
        model = self._trained(TOY_MODELS[toy])
        path = max(masks.named_weights(model), key=lambda weight: weight.parameter.numel()).path
        weight = model.get_parameter(path)
        masks.apply(model, {path: torch.arange(weight.numel()).view_as(weight) % 2 == 0})
        self._perform_or_refuse(model)  # raises a TechniqueError that says which shape was found, what was refilled

    def test_the_result_survives_saving(self, toy: str, tmp_path: Path) -> None:
        outcome = self._perform_or_refuse(self._trained(TOY_MODELS[toy]))
        if outcome is None:
            return
        for name, content in artifact.pack(outcome.model).items():
            (tmp_path / name).write_bytes(content)
        loaded = artifact.load(tmp_path)
        assert torch.equal(self._logits(loaded), self._logits(outcome.model)), (
            "a module of the technique keeps something that is neither a parameter, a buffer nor a plain value"
        )

    def test_the_result_can_be_cloned(self) -> None:
        model = self._perform(self._trained()).model
        before = self._logits(model)
        twin = masks.clone(model)
        assert torch.equal(self._logits(twin), before), "its copy gives other outputs; keep all state in tensors"
        with torch.no_grad():
            for tensor in twin.state_dict().values():
                tensor.zero_()
        assert torch.equal(self._logits(model), before), "it shares tensors with its copy; keep none in a list or class"

    def test_the_result_lies_on_the_device_of_the_data(self) -> None:
        model = self._perform(self._trained()).model
        elsewhere = [name for name, t in model.state_dict().items() if t.device != self.make_data().device]
        assert not elsewhere, f"{elsewhere} are on another device; create tensors on data.device, and register them"

    def test_it_may_come_twice(self) -> None:
        self._perform_or_refuse(self._perform(self._trained()).model)  # it may well refuse, but not fail

    def test_it_may_follow_a_technique_that_puts_in_another_model(self) -> None:
        another = made_up(optimize=_another_model)
        outcome = self._perform_or_refuse(self._trained(), another)
        if outcome is not None:
            self._use().plugin.call(
                "measure",
                model=outcome.model,
                params=self._use().params,
                data=self.make_data(),
                prepared=outcome.prepared[-1],
            )

    def test_it_needs_no_validation_split(self) -> None:
        self._perform_or_refuse(self._trained(), data=replace(self.make_data(), validation=None))


def _another_model() -> nn.Module:
    # With the modules that the outputs' task expects, and names that the input model has not.
    return nn.Sequential(nn.Identity(), toy_mlp(24))
