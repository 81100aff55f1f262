"""Each criterion removes the channels that a formula written out in numbers picks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import toolkit_channels
import torch
from channel_networks import randomized
from numpy.typing import NDArray
from toolkit_channels import Params
from torch import Tensor, nn

from toolkit import masks
from toolkit.testing import toy_cnn, toy_data

DATA = toy_data(128)
CHANNELS = 12


def weights(model: Any) -> NDArray[Any]:
    return model[3].weight.detach().double().flatten(1).numpy()


def parts(model: Any, layer: int) -> list[tuple[nn.Parameter, int]]:
    """Return the weights that go with a channel of a convolution, with the dimension of the channels."""
    after = [(model[1].weight, 0), (model[3].weight, 1)] if layer == 0 else [(model[6].weight, 1)]
    return [(model[layer].weight, 0), *after]


def by_channel(weight: Tensor, dim: int) -> NDArray[Any]:
    """Return all that a weight has of each channel; the linear layer reads each of them at every position."""
    return weight.detach().double().movedim(dim, 0).reshape(CHANNELS, -1).numpy()


def l1(model: Any, layer: int) -> list[float]:
    return sum(np.abs(by_channel(*part)).sum(1) for part in parts(model, layer)).tolist()


def l2(model: Any, layer: int) -> list[float]:
    return sum((by_channel(*part) ** 2).sum(1) for part in parts(model, layer)).tolist()


def scale(model: Any, layer: int) -> list[float]:
    return [abs(value) for value in model[1].weight.tolist()]


def distance(model: Any, layer: int) -> list[float]:
    rows = weights(model)
    return [sum(float(np.sqrt(((row - other) ** 2).sum())) for other in rows) for row in rows]


def taylor(model: Any, layer: int) -> list[float]:
    totals = np.zeros(CHANNELS)
    for batch in DATA.batches("train", order=torch.arange(DATA.samples("train"))):
        model.zero_grad()
        DATA.task.loss(model(batch.inputs), batch).backward()
        totals += np.abs(weights(model) * model[3].weight.grad.double().flatten(1).numpy()).sum(1)
    return totals.tolist()


def activation(model: Any, layer: int) -> list[float]:
    energies = model[:3](DATA.train[0]).double().square().sum((0, 2, 3)).tolist()
    rows = model[3].weight.detach().double().abs().sum((2, 3)).tolist()
    return [sum(value * energy**0.5 for value, energy in zip(row, energies, strict=True)) for row in rows]


FORMULAS: dict[Any, Callable[[nn.Module, int], list[float]]] = {
    "l1": l1,
    "l2": l2,
    "batch-norm": scale,
    "taylor": taylor,
    "activation": activation,
    "geometric-median": distance,
}
CASES = [*((each, 0 if each == "batch-norm" else 3) for each in FORMULAS), ("l1", 0), ("l2", 0)]


def model() -> Any:
    """Return a network whose criteria disagree: some channels have a few large weights, others many small ones."""
    torch.manual_seed(6)
    result: Any = randomized(toy_cnn(CHANNELS))
    with torch.no_grad():
        result[1].weight[::3] *= -3
        result[3].weight *= torch.rand(CHANNELS, CHANNELS, 1, 1) + torch.rand(CHANNELS, 1, 1, 1)
        result[3].weight[::2] *= torch.rand_like(result[3].weight[::2]).pow(4) * 3
    return result


def kept(network: Any, criterion: Any, layer: int, amount: float) -> Tensor:
    """Return the weights that are left of a convolution."""
    params = Params(amount=amount, criterion=criterion, layers=[str(layer)], round_to=1, reestimate=False)
    findings = toolkit_channels.Findings()
    cut: Any = toolkit_channels.optimize(model=masks.clone(network), params=params, data=DATA, prepared=findings)
    return cut[layer].weight.detach()


@pytest.mark.parametrize("amount", [0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize(("criterion", "layer"), CASES)
def test_a_criterion_removes_the_channels_that_its_formula_picks(criterion: Any, layer: int, amount: float) -> None:
    network = model()
    left = kept(network, criterion, layer, amount)
    assert 2 < len(left) < CHANNELS
    strongest = np.argsort(FORMULAS[criterion](masks.clone(network), layer))[-len(left) :]
    before = network[layer].weight.detach()
    assert torch.equal(left, before[sorted(strongest.tolist())])
