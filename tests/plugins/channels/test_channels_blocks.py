"""Whole residual blocks: those that change their inputs least become the identity."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toolkit_channels
import torch
from attention_networks import bert, sentences, swin, timm_vit, vit
from channel_networks import ResNetA, data_of, randomized
from toolkit_channels import Params
from torch import Tensor, nn

import toolkit
from toolkit.structure import influence, residual_blocks
from toolkit.testing import run_text

PICTURES = data_of(1, 8, 8, samples=8)


class Block(nn.Module):
    """A residual block whose branch has a strength; it rectifies its sum."""

    def __init__(self, strength: float, width: int = 8) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        nn.init.constant_(self.branch.get_parameter("1.weight"), strength)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def residual() -> nn.Sequential:
    """Return a network with four blocks, the second of which changes its inputs least."""
    torch.manual_seed(0)
    blocks = [Block(strength) for strength in (1.0, 0.01, 0.5, 0.1)]
    enter = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(enter, *blocks, nn.Flatten(), nn.Linear(8 * 64, 4)).eval()


def cut(model: nn.Module, data: toolkit.Data = PICTURES, **settings: Any) -> tuple[Any, toolkit_channels.Findings]:
    findings, params = toolkit_channels.Findings(), Params(**{"amount": 0.01, "reestimate": False, **settings})
    return toolkit_channels.optimize(model=model, params=params, data=data, prepared=findings), findings


def test_the_blocks_that_change_least_become_the_identity() -> None:
    model = residual()
    expected = model[5:](model[3](model[1](model[0](PICTURES.train[0]))))
    result, findings = cut(model, blocks=0.5)
    assert list(findings.blocks) == ["2", "4"]
    assert isinstance(result[2], nn.Identity)
    assert isinstance(result[4], nn.Identity)
    assert torch.allclose(result(PICTURES.train[0]), expected, atol=1e-5)
    parameters = sum(parameter.numel() for parameter in result.parameters())
    assert findings.gone == pytest.approx(1 - parameters / sum(p.numel() for p in residual().parameters()))
    assert findings.gone > 0.1


def test_channels_go_until_the_amount_is_reached() -> None:
    result, findings = cut(residual(), blocks=0.25, amount=0.5, round_to=1)
    assert isinstance(result[2], nn.Identity)
    assert 0.5 <= findings.gone < 0.65
    assert result[0][0].out_channels < 8


def test_the_influence_is_the_relative_change() -> None:
    model = residual()
    before = model[0](PICTURES.train[0]).detach()
    change = float((model[1](before).detach() - before).norm() / before.norm())
    assert influence(model, ["1"], PICTURES, 8)["1"] == pytest.approx(change, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "data", "names"),
    [
        (partial(ResNetA, 2, 4), data_of(3, 8, 8), ["blocks.0", "blocks.1", "blocks.3", "blocks.5"]),
        (vit, data_of(3, 16, 16), [f"encoder.layers.encoder_layer_{n}" for n in range(2)]),
        (swin, data_of(3, 32, 32), [f"features.{stage}.{block}" for stage in (1, 3) for block in (0, 1)]),
        (timm_vit, data_of(3, 16, 16), ["blocks.0", "blocks.1"]),
        (bert, sentences(), []),  # it normalizes its sums
    ],
    ids=["resnet", "vit", "swin", "timm vit", "bert"],
)
def test_blocks_are_found_where_shapes_allow_it(make: Any, data: toolkit.Data, names: list[str]) -> None:
    assert list(residual_blocks(randomized(make()), data)) == names


def test_patterns_select_blocks() -> None:
    _, findings = cut(residual(), blocks=0.5, layers=["*.branch.0", "1", "3", "4"], amount=0.01)
    assert list(findings.blocks) == ["4", "3"]


def test_a_network_without_residual_blocks_is_refused() -> None:
    with pytest.raises(toolkit.TechniqueError, match=r"needs a residual block that can go, found none; leave it out"):
        cut(toolkit.testing.toy_cnn(), blocks=0.5)


def test_a_share_that_removes_none_is_refused() -> None:
    with pytest.raises(toolkit.TechniqueError, match=r"blocks = 0\.1 removes none of 4 residual blocks; raise it"):
        cut(residual(), blocks=0.1)


RECIPE = """
[model]
source = "{file}:residual"
training = {{ epochs = 1, lr = 1e-2 }}
[[stages]]
technique = "pruning"
params = {{ sparsity = 0.3, scope = "layer" }}
[[stages]]
technique = "channels"
params = {{ amount = 0.3, blocks = 0.5, steps = 2 }}
finetune = {{ epochs = 1, lr = 1e-2 }}
"""


def test_a_network_without_blocks_is_trained_and_its_zeros_are_promised(tmp_path: Path) -> None:
    outcome = run_text(RECIPE.format(file=Path(__file__)), tmp_path)
    assert not outcome.error, outcome.error
    assert not any({"ended", "promises"} & row.values.keys() for row in outcome.rows), outcome.rows
    assert outcome.rows[2]["parameters"] <= 0.7 * outcome.rows[0]["parameters"]
    assert len(outcome.rows[2]["channels.blocks"].table) == 2
