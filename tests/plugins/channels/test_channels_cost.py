"""What is left of a network is counted as it is: tied tensors once, and each of their products."""

from typing import Any

import pytest
import torch
from channel_networks import data_of, some_units
from toolkit_channels import Structure, analyze
from torch import Tensor, nn

from toolkit import cutting, masks, metrics
from toolkit.testing import toy_data, toy_tied

DATA = toy_data(8)


class Steps(nn.Module):
    """Linear layers over the rows of a picture, which are fed as samples of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden = nn.Linear(8, 12), nn.Linear(12, 16)
        self.leave = nn.Linear(16 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.hidden(torch.relu(self.enter(x.flatten(0, 2)))))
        return self.leave(rows.view(x.size(0), 8, -1).flatten(1))


def macs(model: nn.Module) -> int:
    return metrics.macs(model.eval(), DATA)


def cut(model: nn.Module, structure: Structure, removed: list[int]) -> nn.Module:
    smaller = masks.clone(model)
    cutting.cut(smaller, structure.indices(removed))
    return smaller


def test_every_row_that_a_linear_layer_is_fed_counts() -> None:
    model = Steps().eval()
    structure = analyze(model, DATA, ["*"], [])
    assert structure.cost("macs") == macs(model) == 8 * (8 * 12 + 12 * 16 + 16 * 4)
    assert structure.cost("macs") == analyze(model, data_of(1, 8, 8, samples=3), ["*"], []).cost("macs")


@pytest.mark.parametrize("of", ["parameters", "macs", "size_bytes"])
def test_a_tied_tensor_costs_what_is_left_of_it_wherever_it_is_used(of: str) -> None:
    model: Any = toy_tied(16).eval()
    structure = analyze(model, DATA, ["*"], [])
    removed = some_units(structure, 0.5)
    smaller: Any = cut(model, structure, removed)
    assert smaller.first.weight is smaller.second.weight
    assert smaller.first.weight.shape == (8, 8)
    parameters = sum(parameter.numel() for parameter in smaller.parameters())
    expected = {"parameters": parameters, "macs": macs(smaller), "size_bytes": 4 * parameters}
    assert structure.cost(of, removed) == expected[of]
    assert expected["macs"] == 64 * 8 + 2 * 8 * 8 + 8 * 4


def test_a_tensor_that_is_cut_under_its_later_name_is_cut_in_the_count() -> None:
    """A network may use the layer first that comes second among its parameters."""
    model: Any = toy_tied(16).eval()
    model._modules["enter"], model._modules["first"] = model.enter, model.first
    order = ("second", "enter", "first", "leave")
    model._modules = {name: model._modules[name] for name in order}
    structure = analyze(model, DATA, ["*"], [])
    removed = some_units(structure, 0.5)
    smaller = cut(model, structure, removed)
    assert structure.cost("parameters", removed) == sum(parameter.numel() for parameter in smaller.parameters())
