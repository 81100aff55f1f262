"""The built-in models: what their arguments do, and what they refuse."""

from typing import Any

import pytest
import torch
from torch import nn

from toolkit.errors import InputError
from toolkit.models import MODELS, mlp
from toolkit.sources import Source


@pytest.mark.parametrize(
    ("name", "args", "parameters"),
    [
        ("lenet5", {}, 431_080),
        ("lenet-300-100", {}, 266_610),
        ("mlp", {"hidden": [4], "inputs": 6, "classes": 3}, 7 * 4 + 5 * 3),
        ("mlp", {"hidden": [], "inputs": 6, "classes": 3, "input_dropout": 0.2}, 7 * 3),
    ],
)
@pytest.mark.smoke
def test_models_have_the_parameters_that_they_say(name: str, args: dict[str, Any], parameters: int) -> None:
    model = MODELS[name](**args)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def dropouts(model: nn.Module) -> dict[str, float]:
    return {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}


def test_dropout_is_behind_every_hidden_layer_and_before_the_first() -> None:
    assert dropouts(mlp([8, 8])) == {}
    assert dropouts(mlp([8, 8], dropout=0.5)) == {"dropout1": 0.5, "dropout2": 0.5}
    model = mlp([8, 8], dropout=0.5, input_dropout=0.2)
    assert dropouts(model) == {"dropout0": 0.2, "dropout1": 0.5, "dropout2": 0.5}
    names = [name for name, _ in model.named_children()]
    assert names[:4] == ["flatten", "dropout0", "fc1", "relu1"]
    assert model.state_dict().keys() == mlp([8, 8]).state_dict().keys()


def test_inputs_are_dropped_in_training_alone() -> None:
    model = mlp([], inputs=10_000, classes=1, input_dropout=0.2)
    nn.init.constant_(model.get_parameter("fc1.weight"), 1.0)
    nn.init.zeros_(model.get_parameter("fc1.bias"))
    seen: list[torch.Tensor] = []
    model.get_submodule("fc1").register_forward_hook(lambda layer, inputs, outputs: seen.append(inputs[0]))
    inputs = torch.ones(4, 100, 100)
    model(inputs)
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert seen[0].max().item() == pytest.approx(1 / 0.8), "what is left is scaled up"
    assert model.eval()(inputs).tolist() == [[10_000]] * 4


@pytest.mark.parametrize("name", ["dropout", "input_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan")])
def test_probabilities_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{name} must be at least 0 and below 1, found {value}"):
        mlp([8], **{name: value})  # type: ignore[arg-type]


def test_a_recipe_gives_them_as_arguments() -> None:
    model = Source(source="mlp", args={"hidden": [8], "dropout": 0.5, "input_dropout": 0.2}).build()
    assert dropouts(model) == {"dropout0": 0.2, "dropout1": 0.5}
    with pytest.raises(Exception, match="input_dropout must be at least 0 and below 1, found 2"):
        Source(source="mlp", args={"hidden": [8], "input_dropout": 2.0}).build()
