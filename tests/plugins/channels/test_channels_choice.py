"""Which channels go: scores on numbers that can be checked by hand, shares, limits of layers, and steps."""

from typing import Any

import pytest
import toolkit_channels
import torch
from channel_networks import data_of
from toolkit_channels import Params, analyze
from toolkit_channels.criteria import (
    activation_scores,
    geometric_median_scores,
    l2_scores,
    scale_scores,
    taylor_scores,
)
from torch import nn

import toolkit
from toolkit import masks
from toolkit.models import lenet5
from toolkit.testing import toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(128)
WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 1.0], [1.0, 1.0]])


@pytest.mark.smoke
def test_scores_by_hand() -> None:
    gradient = torch.tensor([[1.0, 1.0], [5.0, 2.0], [1.0, -1.0]])
    assert l2_scores(WEIGHT).tolist() == pytest.approx([5, 1, 2**0.5])
    assert scale_scores(torch.tensor([-2.0, 0.5])).tolist() == [2, 0.5]
    assert taylor_scores(WEIGHT, gradient).tolist() == [7, 2, 2]
    assert activation_scores(WEIGHT, torch.tensor([1.0, 10.0])).tolist() == [43, 10, 11]
    assert activation_scores(WEIGHT[:, :, None, None], torch.tensor([1.0, 10.0])).tolist() == [43, 10, 11]


def test_the_row_in_the_middle_is_the_easiest_to_replace() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert geometric_median_scores(rows).tolist() == pytest.approx([3, 2, 3])


def cut(model: nn.Module, data: toolkit.Data = DATA, **params: Any) -> tuple[Any, toolkit_channels.Findings]:
    findings = toolkit_channels.Findings()
    model = masks.clone(model).eval()
    return toolkit_channels.optimize(model=model, params=Params(**params), data=data, prepared=findings), findings


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("criterion", ["l1", "l2", "batch-norm", "taylor", "activation", "geometric-median", "random"])
def test_every_criterion_removes_what_was_asked_for(criterion: Any) -> None:
    model = toy_cnn(32)
    fit(model, Training(TrainingSettings(epochs=1, lr=1e-2), DATA.task.loss), DATA)
    result, findings = cut(model, amount=0.5, criterion=criterion)
    assert 0.5 <= findings.gone < 0.8
    assert parameters(result) == pytest.approx((1 - findings.gone) * parameters(model))
    assert result[0].out_channels % 8 == result[3].out_channels % 8 == 0


@pytest.mark.parametrize("of", ["parameters", "macs", "size_bytes"])
def test_the_share_is_of_what_it_says_and_no_more_goes_than_needed(of: str) -> None:
    model, data = lenet5(), data_of(1, 28, 28)
    before = analyze(model, data, ["*"], []).cost(of)
    result, findings = cut(model, data, amount=0.5, of=of, round_to=1)
    after = analyze(result, data, ["*"], []).cost(of)
    assert findings.gone == pytest.approx(1 - after / before)
    assert 0.5 <= findings.gone < 0.53


def test_macs_are_those_of_the_papers() -> None:
    structure = analyze(lenet5(), data_of(1, 28, 28), ["*"], [])
    assert structure.cost("macs") == 20 * 25 * 24**2 + 50 * 500 * 8**2 + 800 * 500 + 500 * 10
    assert structure.cost("parameters") == 431_080
    assert structure.cost("size_bytes") == 4 * 431_080


def test_the_weakest_channels_go_and_the_others_keep_their_weights() -> None:
    model: Any = toy_mlp(8)
    with torch.no_grad():
        model[1].weight[2:6] *= 1e-3
    result, _ = cut(model, amount=0.4, criterion="l1", round_to=1)
    assert torch.equal(result[1].weight, model[1].weight[[0, 1, 6, 7]])
    assert torch.equal(result[3].weight, model[3].weight[:, [0, 1, 6, 7]])


def test_each_layer_loses_the_same_share_in_the_scope_of_a_layer() -> None:
    model: Any = toy_cnn(32)
    with torch.no_grad():
        model[0].weight *= 100
    result, _ = cut(model, amount=0.5, scope="layer", round_to=1)
    assert abs(result[0].out_channels - result[3].out_channels) <= 1


def test_a_floor_stays_and_more_than_it_leaves_is_refused() -> None:
    result, _ = cut(toy_mlp(40), amount=0.49, floor=0.5, round_to=1)
    assert result[1].out_features == 20
    with pytest.raises(
        toolkit.TechniqueError, match=r"amount = 0.9 of the parameters cannot go, at most 0\.4.*; lower"
    ):
        cut(toy_mlp(40), amount=0.9, floor=0.5, round_to=1)


def test_narrow_layers_are_cut_freely() -> None:
    result, _ = cut(toy_mlp(12), amount=0.4, round_to=8)
    assert result[1].out_features == 7


def test_a_network_whose_channels_all_stay_is_refused_with_the_reasons() -> None:
    with pytest.raises(toolkit.TechniqueError, match=r"no layer is left .*1: excluded; 3: they are outputs"):
        cut(toy_mlp(), exclude=["1"])


class Scaled(nn.Module):
    """Divides by a number of channels that no trace shows."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.enter(x.flatten(1)) / self.enter.out_features)


def test_a_network_that_would_compute_something_else_is_refused() -> None:
    with pytest.raises(toolkit.TechniqueError, match=r"outputs differ by .* from those with the channels masked; excl"):
        cut(Scaled(), amount=0.4)


def test_layers_are_selected_by_patterns() -> None:
    result, findings = cut(toy_cnn(32), amount=0.2, layers=["0"])
    assert result[3].out_channels == 32
    assert findings.kept["3"] == "not among the layers"


def test_steps_need_a_training_and_remove_a_part_each() -> None:
    params = Params(amount=0.6, steps=3, round_to=1)
    assert params.needs_finetune
    model, findings = cut(toy_mlp(64), **params.model_dump())
    assert 0.2 <= findings.gone < 0.23
    training = Training(TrainingSettings(epochs=6, lr=1e-2), DATA.task.loss)
    shares = []

    def share(step: int, steps: int) -> None:
        alive = model[1].weight.flatten(1).abs().sum(1) > 0
        shares.append(1 - int(alive.sum()) / 64)

    training = toolkit_channels.finetune(model=model, params=params, data=DATA, prepared=findings, training=training)
    fit(model, training.using(after_step=share), DATA)
    result: Any = toolkit_channels.finish(model=model, params=params, data=DATA, prepared=findings)
    assert [round(shares[n], 1) for n in (0, 3, 4, 7, 8, 11)] == [0.2, 0.4, 0.4, 0.6, 0.6, 0.6]
    assert result[1].out_features == result[3].in_features == round(64 * (1 - shares[-1]))
    assert not masks.current(result)
