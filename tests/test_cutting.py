"""Tensors are cut with their masks, their shared names and the sizes that layers state; mistakes cut nothing."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit import cutting, masks
from toolkit.cutting import take_cuts
from toolkit.errors import ToolkitError
from toolkit.promises import Promises
from toolkit.testing import toy_cnn, toy_mlp, toy_tied


def at(*indices: int | bool) -> Tensor:
    return torch.tensor(indices)


@pytest.mark.smoke
def test_a_tensor_keeps_the_indices_that_are_named_in_each_dimension() -> None:
    model: Any = toy_cnn(4)
    before = masks.clone(model)
    kept = {"0.weight": {0: at(1, 3)}, "0.bias": {0: at(1, 3)}, "3.weight": {1: at(1, 3)}}
    kept |= {f"1.{name}": {0: at(1, 3)} for name in ("weight", "bias", "running_mean", "running_var")}
    cutting.cut(model, kept)
    assert torch.equal(model[0].weight, before.get_parameter("0.weight")[[1, 3]])
    assert torch.equal(model[3].weight, before.get_parameter("3.weight")[:, [1, 3]])
    assert (model[0].out_channels, model[1].num_features, model[3].in_channels) == (2, 2, 2)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 4)


def test_groups_keep_their_size() -> None:
    model: Any = nn.Sequential(nn.Conv1d(6, 12, 1, groups=3), nn.GroupNorm(6, 12), nn.ConvTranspose1d(12, 4, 2))
    some = at(*range(8))
    cutting.cut(model, {"0.weight": {0: some}, "0.bias": {0: some}, "1.weight": {0: some}, "1.bias": {0: some}})
    cutting.cut(model, {"2.weight": {0: some, 1: at(0, 1)}, "2.bias": {0: at(0, 1)}})
    assert (model[0].groups, model[0].in_channels, model[1].num_groups) == (2, 4, 4)
    assert model(torch.randn(1, 4, 5)).shape == (1, 2, 6)


def test_a_shared_tensor_is_cut_in_every_layer_and_stays_shared() -> None:
    model = toy_tied(6)
    cutting.cut(model, {"first.weight": {0: at(0, 2), 1: at(0, 2)}})
    assert model.first.weight is model.second.weight
    assert (model.second.in_features, model.second.out_features) == (2, 2)


def test_a_mask_is_cut_along_and_holds() -> None:
    model: Any = toy_mlp(4)
    mask = torch.arange(4 * 64).view(4, 64) % 3 > 0
    masks.apply(model, {"1.weight": mask})
    cutting.cut(model, {"1.weight": {0: at(0, 3)}})
    assert torch.equal(masks.current(model)["1.weight"], mask[[0, 3]])
    with torch.no_grad():
        model[1].parametrizations.weight.original.add_(1.0)
    assert torch.equal(model[1].weight != 0, mask[[0, 3]])


def test_promises_follow_what_was_cut_once() -> None:
    model = toy_mlp(4)
    mask = torch.ones(4, 64, dtype=torch.bool)
    mask[:2, :5] = False
    masks.apply(model, {"1.weight": mask})
    promises = Promises().extended_by(model, "pruning")
    cutting.cut(model, {"1.weight": {0: at(0, 1, 3)}})
    cutting.cut(model, {"1.weight": {0: at(1, 2)}})
    left = promises.along(take_cuts(model))
    assert torch.equal(left.zeros["1.weight"]["pruning"], ~mask[[1, 3]])
    assert take_cuts(model) == {}
    assert not Promises().extended_by(model, "pruning").along({"1.weight": [{0: at(1)}]})


@pytest.mark.parametrize(
    ("path", "indices", "reason"),
    [
        ("9.weight", {0: at(0)}, "the model has no layer '9'"),
        ("1.scale", {0: at(0)}, "layer '1' has no tensor 'scale'"),
        ("1.weight", {0: at(4)}, "its shape (4, 64) has no such indices in dimension 0"),
        ("1.weight", {2: at(0)}, "its shape (4, 64) has no such indices in dimension 2"),
        ("1.weight", {0: at()}, "its shape (4, 64) has no such indices in dimension 0"),
        ("1.weight", {0: at(-1, 0)}, "its shape (4, 64) has no such indices in dimension 0"),
        ("1.weight", {0: at(True, True, False, True)}, "its shape (4, 64) has no such indices in dimension 0"),
    ],
)
def test_what_cannot_be_cut_is_named_and_nothing_is_cut(path: str, indices: Any, reason: str) -> None:
    model = toy_mlp(4)
    with pytest.raises(ToolkitError, match=re.escape(f"cannot cut '{path}': {reason}")):
        cutting.cut(model, {"1.bias": {0: at(0)}, path: indices})
    assert model[1].bias.shape == (4,)


def test_only_masks_are_cut_along() -> None:
    model = toy_mlp(4)
    nn.utils.parametrizations.weight_norm(model[1])
    with pytest.raises(ToolkitError, match=r"cannot cut '1\.weight': _WeightNorm keeps it in shape"):
        cutting.cut(model, {"1.weight": {0: at(0)}})


def test_a_module_that_is_bypassed_ends_what_was_promised_of_it() -> None:
    model = nn.Sequential(toy_mlp(4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    ones = torch.ones(4, 4, dtype=torch.bool)
    masks.apply(model, {"1.0.weight": ones.tril(), "0.3.weight": ones.tril()})
    promises = Promises().extended_by(model, "pruning")
    cutting.bypass(model, ["1"])
    assert isinstance(model[1], nn.Identity)
    assert list(promises.along(take_cuts(model)).zeros) == ["0.3.weight"]
