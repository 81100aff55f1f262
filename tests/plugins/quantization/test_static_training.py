"""Training with the rounding of static quantization: what is trained is what is converted."""

from pathlib import Path

import pytest
import toolkit_quantization
import torch
from toolkit_quantization import Params
from toolkit_quantization.conversion_cost import relative_error
from toolkit_quantization.static.calibration import quantizers
from toolkit_quantization.static.training import WeightRounding
from torch import nn

import toolkit
from toolkit import masks
from toolkit.errors import RecipeError
from toolkit.recipe.read import read_recipe
from toolkit.testing import toy_cnn, toy_data, toy_mlp, toy_tied
from toolkit.training import Training, TrainingSettings, fit
from toolkit.training.weights import weight_functions

DATA = toy_data(samples=256).without_test()
STATIC = {"activations": "static", "max_drop": 100.0}


def outputs_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(DATA.train[0])


class Trained:
    """A toy that was trained with rounding: as it was at the end of its training, and converted."""

    def __init__(self, model: nn.Module, lr: float = 1e-2, epochs: int = 2, **params) -> None:
        torch.manual_seed(0)
        settings = Params(**{**STATIC, **params})
        findings = toolkit_quantization.prepare(params=settings, data=DATA)
        start = toolkit_quantization.optimize(model=model, params=settings, data=DATA, prepared=findings)
        self.scales = {path: each.scale.clone() for path, each in quantizers(start).items()}
        training = Training(TrainingSettings(epochs=epochs, lr=lr), DATA.task.loss)
        training = toolkit_quantization.finetune(model=start, params=settings, prepared=findings, training=training)
        self.losses = fit(start, training, DATA)
        self.masks = masks.current(start)
        with weight_functions(start.eval(), training.weights):
            self.before = outputs_of(start)
        self.model = toolkit_quantization.finish(model=start, params=settings, prepared=findings)
        self.findings = findings


CASES = {
    "ranges": {},
    "steps": {"learn_steps": True},
    "whole range": {"learn_steps": True, "overflow_safe": False},
    "int4": {"dtype": "int4"},
    "int2": {"dtype": "int2"},
    "int2 by row": {"dtype": "int2", "group": 0},
    "mixed": {"learn_steps": True, "overrides": {"3": "int4"}},
}


@pytest.mark.parametrize("case", CASES)
def test_the_outputs_before_and_after_the_conversion_are_equal(case):
    trained = Trained(toy_cnn(), **CASES[case])
    assert trained.losses[-1] < trained.losses[0]
    assert relative_error(outputs_of(trained.model), trained.before) < 1e-5
    assert trained.findings.values["drop"] < 0  # the toy was not trained before
    assert not any("log_step" in name or "following" in name for name in trained.model.state_dict())


def test_tied_weights_stay_tied():
    trained = Trained(toy_tied(), learn_steps=True)
    assert trained.model.first.layer.weight is trained.model.second.layer.weight
    assert relative_error(outputs_of(trained.model), trained.before) < 1e-5


@pytest.mark.parametrize(("case", "layer"), [("ranges", "3"), ("steps", "3"), ("steps", "0")])  # a norm follows "0"
def test_zeros_of_masks_stay_zeros(case, layer):
    model = toy_cnn()
    mask = torch.rand_like(model.get_submodule(layer).weight) > 0.5
    masks.apply(model, {f"{layer}.weight": mask})
    trained = Trained(model, **CASES[case])
    assert torch.equal(trained.masks[f"{layer}.weight"], mask)
    assert (trained.model.get_submodule(layer).dense_weight()[~mask] == 0).all()
    assert relative_error(outputs_of(trained.model), trained.before) < 1e-5


@pytest.mark.parametrize("case", ["ranges", "steps"])
def test_a_weight_of_several_parts_trains_with_rounding(case):
    model = toy_mlp()
    nn.utils.parametrizations.weight_norm(model[1])
    trained = Trained(model, **CASES[case])
    assert trained.model.get_submodule("1").precision == "int8"
    assert relative_error(outputs_of(trained.model), trained.before) < 1e-5


@pytest.mark.parametrize("case", ["ranges", "steps"])
def test_a_pruned_neuron_keeps_its_bias(case):
    model = toy_mlp()
    mask = torch.ones_like(model[1].weight, dtype=torch.bool)
    mask[0] = False
    masks.apply(model, {"1.weight": mask})
    with torch.no_grad():
        model[1].bias[0] = 2.0
    trained = Trained(model, **CASES[case])
    assert trained.model.get_submodule("1").dense_weights()["bias"][0] > 1
    assert relative_error(outputs_of(trained.model), trained.before) < 1e-5


@pytest.mark.parametrize("case", ["ranges", "steps"])
def test_ranges_follow_the_activations_until_they_are_frozen(case):
    def scales(share):
        trained = Trained(toy_mlp(), freeze_after=share, **CASES[case])
        moved = {path: each.scale / trained.scales[path] for path, each in quantizers(trained.model).items()}
        return moved["activation_quantizers._2"].item()

    # The first step moves before it ends.
    early, late = scales(0.0), scales(1.0)
    assert early == pytest.approx(1, rel=0.05)
    assert abs(late - 1) > 2 * abs(early - 1)


def test_a_row_that_starts_at_zero_can_leave_it():
    weight = torch.tensor([[1.0, -0.5], [0.0, 0.0], [0.5, 2.0]])
    rounding = WeightRounding(weight, "int8", overflow_safe=False, learn_steps=True)
    weight[1, 0] = 0.5
    torch.testing.assert_close(rounding(weight)[1], weight[1], atol=0.01, rtol=0)


def test_learned_steps_have_the_gradient_of_the_paper():
    weight = torch.tensor([[1.0, -0.3, 0.1, 0.26]], requires_grad=True)
    rounding = WeightRounding(weight.detach(), "int8", overflow_safe=False, learn_steps=True)
    rounding.start.fill_(0.1)
    values = rounding(weight)
    torch.testing.assert_close(values, torch.tensor([[1.0, -0.3, 0.1, 0.3]]))
    values[0, 3].backward()
    # The derivative by the logarithm is the scale times that by the scale: round(v / s) - v / s.
    torch.testing.assert_close(rounding.log_step.grad, torch.tensor([0.1 * (3 - 2.6)]))
    assert weight.grad.tolist() == [[0.0, 0.0, 0.0, 1.0]]


RECIPE = """
[model]
source = "toolkit.testing:toy_cnn"
training = { epochs = 3, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
[[stages]]
technique = "quantization"
params = { PARAMS }
with = [{ technique = "distillation", params = { temperature = 2.0 } }]
finetune = { epochs = 1 }
"""
PRUNING = """
[[stages]]
technique = "pruning"
finetune = { epochs = 1 }
"""


def written(folder: Path, params: str = 'activations = "static", learn_steps = true', more: str = "") -> Path:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.replace("PARAMS", params) + more)
    return path


@pytest.mark.slow
def test_a_network_is_distilled_while_it_trains_with_rounding(tmp_path):
    report = toolkit.run(written(tmp_path), output=tmp_path / "run")
    values = report.rows[-1].values
    assert values["accuracy"] > 0.8
    assert values["quantization.layers"] == 3
    opened = toolkit.load(tmp_path / "run")
    assert [path for path, module in opened.named_modules() if hasattr(module, "replaces")] == ["0", "3", "6"]


@pytest.mark.parametrize(
    ("params", "more", "place"),
    [
        ("", "", "stages.1"),
        ('activations = "static", rounding = "compensated"', "", "stages.1"),
        (None, PRUNING, "stages.2"),
    ],
)
def test_recipes_that_train_what_is_rounded_for_good(params, more, place, tmp_path):
    path = written(tmp_path, more=more) if params is None else written(tmp_path, params)
    with pytest.raises(RecipeError, match=rf"{place}.finetune: cannot train the model after quantization"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ('activations = "static", learn_steps = true', "stages.1.finetune: is missing: quantization .*needs training"),
        ("learn_steps = true", "with learn_steps activations must be 'static', found 'dynamic'; leave learn_steps out"),
    ],
)
def test_scales_that_nothing_would_learn_are_refused(params, problem, tmp_path):
    path = written(tmp_path, params)
    path.write_text(path.read_text().partition("with =")[0])
    with pytest.raises(RecipeError, match=problem):
        read_recipe(path)
