"""Networks that cannot be traced symbolically are followed as they run; what other samples could change is refused."""

import re

import pytest
import torch
from attention_networks import sentences
from channel_networks import cut_and_masked, data_of, randomized
from toolkit_channels import analyze
from torch import Tensor, nn

import toolkit

MAX_DIFFERENCE = 1e-5


class Words(nn.Module):
    """Reads sentences from named arguments, and looks at the padding before it uses it; returns a dictionary."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(50, width), nn.Embedding(16, width)
        self.hidden, self.back = nn.Linear(width, 24), nn.Linear(24, width)
        self.leave = nn.Linear(width, 4)
        self.scale = nn.Parameter(torch.ones(24))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        x = x + self.back(torch.relu(self.hidden(x)) * self.scale)
        if attention_mask is not None and not bool(attention_mask.all()):
            x = x * attention_mask.unsqueeze(-1)
        return {"logits": self.leave(x.sum(1))}


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_network_with_named_inputs_and_masks_is_cut(share: float) -> None:
    model = randomized(Words())
    cut, difference, change = cut_and_masked(model, sentences(), share)
    assert difference <= MAX_DIFFERENCE
    assert change > 100 * MAX_DIFFERENCE
    assert cut.get_parameter("hidden.weight").shape[0] < 24


class Choosing(nn.Module):
    """Calls one of two layers: the second for pictures that no sample is like, or for long sentences."""

    def __init__(self, by_floats: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(10, 8)
        self.short, self.long = nn.Linear(8, 8), nn.Linear(8, 8)
        self.leave = nn.Linear(8, 4)
        self.by_floats = by_floats

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.enter(input_ids.float())
        is_long = x.sum() > 1e9 if self.by_floats else input_ids.max() > 1000
        return self.leave(self.long(x) if is_long else self.short(x))


@pytest.mark.parametrize(
    ("by_floats", "message"),
    [
        (True, "the network cannot be traced: its control flow depends on values; rewrite its forward"),
        (False, "module 'long' did not run on two samples; if it never runs, exclude it by exclude = ['long']"),
    ],
)
def test_what_other_samples_could_change_is_refused_by_name(by_floats: bool, message: str) -> None:
    with pytest.raises(toolkit.TechniqueError, match=re.escape(message)):
        analyze(Choosing(by_floats).eval(), sentences(), ["*"], [])


def test_the_remedy_works() -> None:
    structure = analyze(Choosing(False).eval(), sentences(), ["*"], ["long"])
    assert structure.groups
    assert "long" not in {layer for group in structure.groups for layer in group.layers}


class Counting(nn.Module):
    """States a number of channels that it reads from a size, which a run cannot tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(1, 6, 1), nn.Linear(6 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x) * len(range(x.shape[2]))  # no symbol has a range
        return self.leave(x.view(x.shape[0], x.shape[1] * 64))


def test_a_size_of_channels_keeps_them() -> None:
    reason = analyze(Counting().eval(), data_of(1, 8, 8), ["*"], []).kept["enter"]
    assert reason == "`view` in forward states their number (384), which has to be -1 instead"
