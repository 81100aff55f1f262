"""Layers that stand for others are known by what they offer, whoever made them."""

import pytest
import torch
from torch import nn

from toolkit.replacements import is_replaced, replaced_layers


class Several(nn.Module):
    """A recurrent layer of several, which names its bits."""

    replaces, precision = "LSTM", "int4"

    def dense_weights(self) -> dict[str, torch.Tensor]:
        return {"weight_ih_l0": torch.ones(4, 2), "bias_ih_l0": torch.ones(4)}


class Halved(nn.Module):
    """A linear layer of one weight, made of another replaced layer."""

    replaces = "Linear"

    def __init__(self) -> None:
        super().__init__()
        self.stored = nn.Parameter(torch.ones(3, 2).half())
        self.bias = None
        self.inner = Several()

    def dense_weight(self) -> torch.Tensor:
        return self.stored.float()


@pytest.mark.smoke
def test_every_replaced_layer_is_found_once_under_its_first_path():
    shared = Halved()
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Sequential(Several()), shared)
    assert [(layer.path, layer.replaces) for layer in replaced_layers(model)] == [("1", "Linear"), ("2.0", "LSTM")]
    assert not is_replaced(model[0])


def test_the_tensors_of_a_layer_are_those_that_it_would_have():
    halved, several = replaced_layers(nn.Sequential(Halved(), Several()))
    assert {name: tensor.dtype for name, tensor in halved.tensors.items()} == {"weight": torch.float32}
    assert (halved.precision, several.precision) == (None, "int4")
    assert set(several.tensors) == {"weight_ih_l0", "bias_ih_l0"}
    assert set(several.weights) == {"weight_ih_l0"}, "a bias is no weight"
