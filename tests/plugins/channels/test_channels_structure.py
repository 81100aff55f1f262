"""What goes together: a network without some channels computes what it does with them masked to zero."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from channel_networks import (
    Lambda,
    Recurrent,
    ResNetA,
    Sequence,
    Squeezed,
    UNet,
    cut_and_masked,
    data_of,
    encoders,
    randomized,
)
from toolkit_channels import analyze
from torch import Tensor, nn

import toolkit
from toolkit.models import lenet5
from toolkit.testing import TOY_MODELS

MAX_DIFFERENCE = 1e-5

OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (make, (1, 8, 8)) for name, make in TOY_MODELS.items()},
    "lenet5": (lenet5, (1, 28, 28)),
    "resnet20-a": (ResNetA, (3, 16, 16)),
    "unet": (UNet, (1, 8, 8)),
    "squeezed": (Squeezed, (1, 8, 8)),
    "sequence": (Sequence, (1, 8, 8)),
    "encoders": (encoders, (1, 8, 8)),
    "lstm in both directions": (Recurrent, (1, 8, 8)),
    "gru": (partial(Recurrent, nn.GRU, False, 1), (1, 8, 8)),
    "rnn": (partial(Recurrent, nn.RNN), (1, 8, 8)),
}
TORCHVISION = {
    **dict.fromkeys(("resnet18", "resnet50", "resnext50_32x4d", "regnet_y_400mf", "mobilenet_v2"), 64),
    **dict.fromkeys(("mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "densenet121", "vgg16_bn"), 64),
    **dict.fromkeys(("convnext_tiny", "googlenet", "squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5"), 64),
    **{"swin_t": 64, "vit_b_16": 224},
}


def torchvision_model(name: str) -> nn.Module:
    args = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(weights=None, **args)


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("name", OWN)
@pytest.mark.smoke
def test_a_network_without_channels_computes_what_the_masked_one_does(name: str, share: float) -> None:
    make, shape = OWN[name]
    model = randomized(make())
    cut, difference, change = cut_and_masked(model, data_of(*shape), share)
    assert difference <= MAX_DIFFERENCE
    assert change > 100 * MAX_DIFFERENCE
    assert sum(p.numel() for p in cut.parameters()) < (1 - share / 4) * sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision_compute_what_the_masked_ones_do(name: str, share: float) -> None:
    model = randomized(torchvision_model(name))
    size = TORCHVISION[name]
    _, difference, change = cut_and_masked(model, data_of(3, size, size), share)
    assert difference <= MAX_DIFFERENCE
    assert change > 10 * difference


def kept(model: nn.Module, *shape: int, exclude: tuple[str, ...] = ()) -> dict[str, str]:
    return analyze(model.eval(), data_of(*shape or (1, 8, 8)), ["*"], list(exclude)).kept


def groups(model: nn.Module, *shape: int) -> list[tuple[str, ...]]:
    return [group.layers for group in analyze(model.eval(), data_of(*shape or (1, 8, 8)), ["*"], []).groups]


def test_layers_of_a_residual_stream_form_one_group_and_padding_stays() -> None:
    structure = analyze(ResNetA(1, 4).eval(), data_of(3, 8, 8), ["*"], [])
    stream = structure.groups[-1]
    assert stream.layers == ("conv1", "blocks.0.conv2", "blocks.1.conv2", "blocks.2.conv2")
    assert len(stream.units) == 4  # the padded channels of the later blocks have no layer that makes them
    assert [group.layers for group in structure.groups[:-1]] == [(f"blocks.{n}.conv1",) for n in range(3)]
    assert set(structure.kept) == {"linear"}


def test_the_hidden_units_and_the_heads_of_each_block_of_a_transformer_are_groups() -> None:
    blocks = [(f"4.layers.{n}.{name}",) for n in range(2) for name in ("self_attn", "linear1")]
    assert groups(encoders()) == [("1",), *blocks]


def test_a_tied_weight_ties_inputs_and_outputs() -> None:
    assert groups(TOY_MODELS["tied"]()) == [("enter", "first", "second")]


class Forward(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], leave: nn.Module | None = None) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 6, 3, padding=1)
        self.between = between
        self.leave = leave or nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(self.enter(x)))


@pytest.mark.parametrize(
    ("between", "leave", "reason"),
    [
        (lambda x: torch.sigmoid(x).mean((2, 3)), None, "what 'leave.weight' reads is not zero where they are"),
        (lambda x: (x + 1).mean((2, 3)), None, "what 'leave.weight' reads is not zero where they are"),
        (lambda x: x.softmax(1).mean((2, 3)), None, "`softmax` in forward has no rule for channels"),
        (lambda x: x.view(-1, 6, 64).mean(2), None, "`view` in forward states their number (6), which has to be -1"),
        (lambda x: x[:, :4].mean((2, 3)), nn.Linear(4, 4), "`getitem` in forward selects some of them"),
        (lambda x: x.mean((2, 3)) / x.size(1), None, "`truediv` in forward divides by them"),
        (lambda x: x.mean(1).flatten(1), nn.Linear(64, 4), "`mean` in forward takes a mean or maximum over them"),
        (lambda x: F.pixel_shuffle(x.repeat(1, 2, 1, 1)[:, :4], 2).flatten(1), nn.Linear(256, 4), "`repeat` in"),
        (
            lambda x: x.mean((2, 3)),
            nn.Sequential(nn.Softmax(1), nn.Linear(6, 4)),
            "layer 'leave.0' of kind Softmax has no",
        ),
        (lambda x: x.mean((2, 3)), nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)), "'leave.0' takes its mean over"),
    ],
)
def test_channels_stay_where_removing_them_would_not_be_masking(
    between: Callable[[Tensor], Tensor], leave: nn.Module | None, reason: str
) -> None:
    assert reason in kept(Forward(between, leave))["enter"]


class Branching(nn.Module):
    """Control flow that cannot be traced, in the first half."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Lambda(lambda x: x if x.sum() > 1e9 else 2 * x)
        self.hidden, self.leave = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.hidden(self.first(x).flatten(1))))


def test_what_cannot_be_traced_is_named_with_the_remedy_which_works() -> None:
    with pytest.raises(
        toolkit.TechniqueError, match=r"module 'first' cannot be traced.*; exclude it by exclude = \['fi"
    ):
        kept(Branching())
    assert kept(Branching(), exclude=("first",)) == {"leave": "they are outputs of the network"}


def test_excluded_layers_stay_and_take_their_residual_stream_along() -> None:
    reasons = kept(ResNetA(1, 4), 3, 8, 8, exclude=("blocks.1",))
    assert reasons["conv1"] == reasons["blocks.1.conv1"] == "excluded"
    assert "blocks.0.conv1" not in reasons


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(toolkit.TechniqueError, match="no layer matches 'block'"):
        kept(ResNetA(1, 4), 3, 8, 8, exclude=("block",))
