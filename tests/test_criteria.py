"""What the train split says of weights: gradients and norms of inputs, against autograd and sums written out."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit import criteria, masks
from toolkit.testing import toy_cnn, toy_data, toy_lstm, toy_mlp, toy_transformer

DATA = toy_data(256)


def batches(samples: int) -> Any:
    return DATA.batches("train", order=torch.arange(samples))


def states(model: nn.Module) -> dict[str, Tensor]:
    return {path: tensor.clone() for path, tensor in model.state_dict().items()}


def test_gradients_are_those_of_each_batch_with_the_model_in_eval_mode() -> None:
    model = toy_cnn()
    twin = masks.clone(model).eval()
    found = list(criteria.gradients(model.train(), DATA, ["0.weight", "6.weight"], samples=100))
    assert len(found) == len(batches(100))
    for gradients, batch in zip(found, batches(100), strict=True):
        twin.zero_grad()
        DATA.task.loss(twin(batch.inputs), batch).backward()
        assert gradients.keys() == {"0.weight", "6.weight"}
        for path, gradient in gradients.items():
            expected = twin.get_parameter(path).grad
            assert expected is not None
            torch.testing.assert_close(gradient, expected)


def test_gradients_leave_the_model_as_it_was_and_reach_masked_and_frozen_weights() -> None:
    model = toy_mlp()
    model.get_parameter("3.weight").requires_grad_(False)
    masks.apply(model, {"1.weight": torch.arange(64).lt(32).expand(32, 64)})
    before = states(model)
    with torch.no_grad():
        (gradients, *_) = criteria.gradients(model, DATA, ["1.weight", "3.weight"], samples=64)
    assert gradients["1.weight"][:, 32:].any()
    assert gradients["3.weight"].any()
    assert not model.get_parameter("3.weight").requires_grad
    assert all(torch.equal(tensor, before[path]) for path, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_on_which_the_loss_does_not_depend_have_no_gradient() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(64, 4), nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.used(inputs.flatten(1))

    (gradients,) = criteria.gradients(Idle(), DATA, ["used.weight", "idle.weight"], samples=8)
    assert gradients.keys() == {"used.weight"}


def test_norms_are_those_of_each_input_channel_over_samples_and_positions() -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 3, 3), up=nn.ConvTranspose2d(3, 2, 2), flat=nn.Flatten()))
    model.add_module("head", nn.Linear(2 * 7 * 7, 4))
    found = criteria.input_norms(model.train(), DATA, ["conv", "up", "flat", "head"], samples=100)
    assert model.training
    assert found.keys() == {"conv", "up", "head"}
    inputs = torch.cat([batch.inputs for batch in batches(100)])
    with torch.no_grad():
        read = {"conv": inputs, "up": model[0](inputs), "head": model[:3](inputs)}
    for layer, values in read.items():
        expected = [values[:, channel].square().sum().sqrt() for channel in range(values.shape[1])]
        torch.testing.assert_close(found[layer], torch.stack(expected))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_linear_layer_reads_its_last_dimension_and_what_forward_does_not_call_has_no_norms() -> None:
    paths = [path for path, module in toy_transformer().named_modules() if path]
    found = criteria.input_norms(toy_transformer(), DATA, paths, samples=32)
    assert not any("self_attn" in path for path in found)
    for path, norms in found.items():
        assert norms.shape == (toy_transformer().get_submodule(path).in_features,)
    assert len(found) > 1
    assert criteria.input_norms(toy_lstm(), DATA, [path for path, _ in toy_lstm().named_modules()], samples=32).keys()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_weight_is_multiplied_by_the_norm_of_its_own_input(groups: int) -> None:
    layer = nn.Conv2d(8, 12, 3, groups=groups)
    norms = torch.arange(1.0, 9.0)
    found = criteria.weights_times_inputs(layer.weight.detach(), norms)
    for output in range(12):
        first = output // (12 // groups) * (8 // groups)
        for place in range(8 // groups):
            assert torch.equal(found[output, place], layer.weight[output, place].abs() * norms[first + place])
