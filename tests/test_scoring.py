"""The score of a model on the selection split: which metric, on which samples, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toolkit
from toolkit import scoring
from toolkit.testing import TOY_MODELS, toy_data, toy_mlp

DATA = toy_data(256)


class Always(nn.Module):
    """Answers the same class whatever it is shown."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(inputs),), 2), 4).float()


class Plain(toolkit.Task):
    """Nothing but a loss."""

    def loss(self, outputs: Any, batch: toolkit.Batch) -> Tensor:
        return (outputs.mean(dim=1) - batch.targets).square().mean()


def explained(outputs: Any, batch: toolkit.Batch) -> toolkit.Pooled:
    targets = batch.targets.double()
    parts = torch.stack([(outputs.mean(dim=1) - targets).square(), targets, targets.square()], dim=1)
    return toolkit.Pooled(parts, lambda means: 1 - means[0] / (means[2] - means[1].square()))


@pytest.mark.parametrize("name", TOY_MODELS)
def test_the_accuracy_on_validation_and_each_sample_s_part_in_it(name: str) -> None:
    model = TOY_MODELS[name]().train()
    score = scoring.score(model, DATA)
    assert all(module.training for module in model.modules())
    inputs, targets = DATA.validation  # type: ignore[misc]
    with torch.no_grad():
        right = DATA.task.logits(model.eval()(inputs)).argmax(dim=1) == targets
    assert torch.equal(score.values, right.double())
    assert score.value == pytest.approx(float(right.double().mean()))
    assert (score.metric, score.better, score.samples, score.is_fraction) == ("accuracy", "higher", len(targets), True)


def test_without_validation_it_is_train_and_never_test() -> None:
    data = replace(DATA, validation=None)
    assert data.selection_split == "train"
    assert scoring.score(toy_mlp(), data).samples == data.samples("train")


def test_fewer_samples_are_spread_over_the_split_and_always_the_same() -> None:
    many = 6001
    sorted_by_class = (DATA.train[0][:1].expand(many, 1, 8, 8), torch.arange(many) * 4 // many)
    data = replace(DATA, validation=sorted_by_class)
    seen: list[Tensor] = []
    score = scoring.score(Always(), data, 2000, lambda _, batch: seen.append(batch.index))
    index = torch.cat(seen)
    assert len(index) == score.samples == 2000
    assert (index[0], index[-1]) == (0, many - 1)
    assert score.value == pytest.approx(0.25, abs=0.002)
    assert torch.equal(scoring.score(Always(), data, 2000).values, score.values)


def test_other_parts_of_the_same_pass_are_seen() -> None:
    outputs: list[Tensor] = []
    scoring.score(Always(), DATA, 100, lambda answer, batch: outputs.append(answer))
    assert torch.cat(outputs).shape == (64, 4)  # all that validation has


def test_a_task_with_nothing_but_a_loss_is_scored_by_it() -> None:
    inputs, targets = DATA.validation  # type: ignore[misc]
    data = toolkit.Data(train=(inputs, targets.float()), task=Plain(), batch_size=24)
    model = toy_mlp().eval()
    score = scoring.score(model, data)
    with torch.no_grad():
        expected = float((model(inputs).mean(1) - targets).square().mean())
    assert (score.metric, score.better) == ("loss", "lower")
    assert score.value == pytest.approx(expected, rel=1e-5)


def test_a_pooled_metric_is_computed_over_all_samples() -> None:
    inputs, targets = DATA.validation  # type: ignore[misc]
    data = toolkit.Data(train=(inputs, targets.float()), task=Plain(), metrics={"explained": explained}, batch_size=24)
    model = toy_mlp().eval()
    score = scoring.score(model, data)
    with torch.no_grad():
        residual = (model(inputs).mean(1) - targets).square().mean() / targets.float().var(unbiased=False)
    assert score.value == pytest.approx(float(1 - residual), rel=1e-4)
    assert score.values.shape == (64,)
    assert float(score.values.mean()) == pytest.approx(score.value)
    assert not score.is_fraction  # it is below 0


def test_a_drop_is_a_change_for_the_worse_whatever_the_direction() -> None:
    values = torch.zeros(1)
    before, after = (scoring.Score("accuracy", "higher", value, values, True) for value in (0.9, 0.7))
    assert after.drop_from(before) == pytest.approx(0.2)
    before, after = (scoring.Score("loss", "lower", value, values, False) for value in (0.9, 0.7))
    assert after.drop_from(before) == pytest.approx(-0.2)


def test_what_cannot_be_scored_is_refused() -> None:
    inputs, targets = DATA.train  # type: ignore[misc]
    empty = replace(DATA, validation=(inputs[:0], targets[:0]))
    with pytest.raises(toolkit.ToolkitError, match=r"^the validation split has no samples to score a model on$"):
        scoring.score(toy_mlp(), empty)
    odd = replace(DATA, task=Plain(), metrics={"mine": lambda outputs, batch: outputs})
    with pytest.raises(toolkit.ToolkitError, match=r"^'mine' must be a tensor of one value per sample, \(64,\), found"):
        scoring.score(toy_mlp(), replace(odd, batch_size=64))
