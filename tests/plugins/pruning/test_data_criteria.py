"""Criteria that need the train split, Taylor and Wanda, against their formulas written out; and ranking row by row."""

from pathlib import Path
from typing import Any

import pytest
import toolkit_pruning
import torch
from toolkit_pruning import Params
from toolkit_pruning.ranking import row_mask
from toolkit_pruning.saliency import taylor_scores
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit.testing import run_text, toy_cnn, toy_data, toy_lstm, toy_mlp, toy_transformer
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(256)
SAMPLES = 100


def pruned(model: nn.Module, **params: Any) -> nn.Module:
    settings = Params(samples=SAMPLES, **params)
    return toolkit_pruning.optimize(model=masks.clone(model), params=settings, data=DATA, prepared=[])


def batches() -> Any:
    return DATA.batches("train", order=torch.arange(SAMPLES))


def weight_of(model: nn.Module, path: str) -> Tensor:
    return model.get_parameter(path).detach()


# Row by row


@pytest.mark.smoke
def test_each_row_loses_its_smallest_scores_and_of_equals_the_first() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [7.0, 5.0, 5.0, 5.0]])
    assert row_mask(scores, 0.5).tolist() == [[False, False, True, True], [True, False, False, True]]
    assert row_mask(scores, 0.0).all()


def test_the_rows_of_a_layer_are_its_outputs_and_all_lose_the_same_share() -> None:
    model = toy_mlp()
    with torch.no_grad():
        model.get_parameter("1.weight")[:16] *= 1e-3
    found = masks.current(pruned(model, scope="row", sparsity=0.75))
    assert (found["1.weight"].sum(1) == 16).all()
    assert (found["3.weight"].sum(1) == 8).all()
    for path, mask in found.items():
        for weights, kept in zip(weight_of(model, path).abs(), mask, strict=True):
            assert weights[kept].min() >= weights[~kept].max()


@pytest.mark.parametrize("groups", [1, 2])
def test_the_outputs_of_a_transposed_convolution_lie_in_its_second_dimension(groups: int) -> None:
    layer = nn.ConvTranspose2d(8, 6, 3, groups=groups)
    mask = masks.current(pruned(layer, scope="row", sparsity=0.5))["weight"]
    inputs, outputs = 8 // groups, 6 // groups
    for group in range(groups):
        for output in range(outputs):
            row = mask[group * inputs : (group + 1) * inputs, output]
            assert int(row.sum()) == row.numel() // 2


def test_a_second_pruning_by_row_only_adds_zeros() -> None:
    first = pruned(toy_mlp(), sparsity=0.5, criterion="random")
    second = pruned(first, sparsity=0.75, scope="row")
    assert all((mask <= masks.current(first)[path]).all() for path, mask in masks.current(second).items())
    assert (masks.current(second)["1.weight"].sum(1) <= 16).all()


# Taylor


def test_taylor_scores_by_hand() -> None:
    assert taylor_scores(torch.tensor([[3.0, -4.0]]), torch.tensor([[2.0, 5.0]])).tolist() == [[6, 20]]


def test_taylor_prunes_the_weights_whose_products_with_the_gradients_are_smallest() -> None:
    model = toy_cnn()
    twin = masks.clone(model).eval()
    paths = ("0.weight", "3.weight", "6.weight")
    totals = {path: torch.zeros_like(weight_of(model, path)) for path in paths}
    for batch in batches():
        twin.zero_grad()
        DATA.task.loss(twin(batch.inputs), batch).backward()
        for path in paths:
            gradient = twin.get_parameter(path).grad
            assert gradient is not None
            totals[path] += (weight_of(twin, path) * gradient).abs()
    scores = torch.cat([total.flatten() for total in totals.values()])
    found = masks.current(pruned(model, criterion="taylor", sparsity=0.6))
    kept = torch.cat([found[path].flatten() for path in paths])
    assert int((~kept).sum()) == round(0.6 * len(kept))
    assert scores[~kept].max() <= scores[kept].min() * (1 + 1e-4)


def test_the_loss_changes_by_about_the_score_of_a_small_weight() -> None:
    model = toy_mlp()
    with torch.no_grad():
        model.get_parameter("3.weight")[1, 5] = 1e-2
    (batch,) = DATA.batches("train", order=torch.arange(SAMPLES), batch_size=SAMPLES)
    weight = model.get_parameter("3.weight")
    loss = DATA.task.loss(model(batch.inputs), batch)
    (gradient,) = torch.autograd.grad(loss, [weight])
    score = taylor_scores(weight.detach(), gradient)[1, 5]
    with torch.no_grad():
        weight[1, 5] = 0.0
        after = DATA.task.loss(model(batch.inputs), batch)
    assert abs(float(after) - float(loss.detach())) == pytest.approx(float(score), rel=0.05)


@pytest.mark.parametrize("criterion", ["taylor", "wanda"])
def test_on_a_gradual_schedule_scores_are_those_of_the_weights_as_they_are(criterion: Any) -> None:
    settings = Params(sparsity=0.8, criterion=criterion, scope="layer", schedule="gradual", steps_between=1, samples=64)
    model: nn.Module = toy_cnn()
    prepared = toolkit_pruning.prepare()
    at_once = masks.current(pruned(model, sparsity=0.8, criterion=criterion, scope="layer"))
    model = toolkit_pruning.optimize(model=model, params=settings, data=DATA, prepared=prepared)
    assert all(mask.all() for mask in masks.current(model).values())
    training = Training(TrainingSettings(epochs=2, lr=1e-2), DATA.task.loss)
    training = toolkit_pruning.finetune(model=model, params=settings, data=DATA, prepared=prepared, training=training)
    fit(model, training, DATA)
    found = masks.current(model)
    assert all(int((~mask).sum()) == round(0.8 * mask.numel()) for mask in found.values())
    assert not all(torch.equal(mask, at_once[path]) for path, mask in found.items())


# Wanda


def test_wanda_prunes_in_each_row_the_smallest_weights_times_norms_of_inputs() -> None:
    assert Params(criterion="wanda").scope == "row"
    model = toy_mlp().eval()
    inputs = torch.cat([batch.inputs for batch in batches()]).flatten(1)
    with torch.no_grad():
        hidden = model[:3](inputs)
    found = masks.current(pruned(model, criterion="wanda", sparsity=0.5))
    for path, read in (("1.weight", inputs), ("3.weight", hidden)):
        norms = torch.tensor([float(read[:, place].norm()) for place in range(read.shape[1])])
        scores = weight_of(model, path).abs() * norms
        assert (found[path].sum(1) == scores.shape[1] // 2).all()
        for row, kept in zip(scores, found[path], strict=True):
            assert row[~kept].max() <= row[kept].min() * (1 + 1e-5)
    assert not torch.equal(found["1.weight"], masks.current(pruned(model, scope="row"))["1.weight"])


def test_an_input_that_is_always_zero_loses_its_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        model.get_parameter("1.weight")[:8], model.get_parameter("1.bias")[:8] = 0.0, -1.0
        model.get_parameter("3.weight")[:, :8] = 100.0
    assert not masks.current(pruned(model, criterion="wanda", sparsity=0.5))["3.weight"][:, :8].any()


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_read_their_first_dimension(groups: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 4, 3, groups=groups), nn.Flatten(), nn.LazyLinear(4)
    )
    model(DATA.example(2).inputs)
    with torch.no_grad():
        model.get_parameter("0.weight")[0], model.get_parameter("0.bias")[0] = 0.0, 0.0
    assert not masks.current(pruned(model, criterion="wanda", sparsity=0.5, scope="layer"))["1.weight"][0].any()


def test_n_of_m_goes_by_weights_times_inputs_too() -> None:
    model = toy_mlp()
    plain, wanda = (masks.current(pruned(model, pattern="2:4", **extra)) for extra in ({}, {"criterion": "wanda"}))
    assert (wanda["1.weight"].unflatten(1, (-1, 4)).sum(-1) == 2).all()
    assert not torch.equal(plain["1.weight"], wanda["1.weight"])


def test_weights_whose_inputs_cannot_be_seen_are_left_alone_and_said_to_be() -> None:
    prepared = toolkit_pruning.prepare()
    params = Params(criterion="wanda")
    model = toolkit_pruning.optimize(model=toy_transformer(), params=params, data=DATA, prepared=prepared)
    assert not any("attn" in path for path in masks.current(model))
    note = toolkit_pruning.measure(model=model, prepared=prepared)["layers"]
    assert isinstance(note, toolkit.Note)
    assert "attn.out_proj is left alone: criterion wanda needs its inputs, which only its own forward sees" in note.text
    recurrent = [path for path in masks.current(pruned(toy_lstm())) if "weight_" in path]
    with pytest.raises(toolkit.TechniqueError, match=r"no layer is left to prune \(.*wanda needs its inputs"):
        pruned(toy_lstm(), criterion="wanda", layers=recurrent)


def test_a_scan_prunes_by_the_scores_of_the_criterion() -> None:
    note = toolkit_pruning.prepare()
    params = Params(criterion="taylor", scan=True, samples=32)
    toolkit_pruning.optimize(model=toy_mlp(), params=params, data=DATA, prepared=note)
    assert note[0].scan is not None
    assert {row["layer"] for row in note[0].scan.table} == {"1", "3"}


# In a recipe


@pytest.mark.parametrize("criterion", ["taylor", "wanda", "movement"])
def test_later_stages_keep_the_zeros(criterion: str, tmp_path: Path) -> None:
    text = f"""
[model]
source = "toolkit.testing:toy_mlp"
training = {{ epochs = 1, lr = 1e-2 }}
[[stages]]
technique = "pruning"
params = {{ criterion = "{criterion}", sparsity = 0.7, steps_between = 2 }}
finetune = {{ epochs = 2, weight_decay = 0.1 }}
[[stages]]
technique = "quantization"
"""
    outcome = run_text(text, tmp_path)
    assert not outcome.error, outcome.error
    assert outcome.rows[1]["pruning.sparsity"] == pytest.approx(0.7, abs=0.02)
    assert outcome.rows[2]["sparsity"] >= outcome.rows[1]["sparsity"] > 0.6
    assert not any({"ended", "promises"} & row.values.keys() for row in outcome.rows)
