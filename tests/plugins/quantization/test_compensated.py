"""Compensated rounding: exact small cases, what it gains on correlated inputs, and what a stage keeps of it."""

from dataclasses import replace
from itertools import product

import pytest
import toolkit_quantization
import torch
from toolkit_quantization import Params
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.compensated.grids import nearest
from toolkit_quantization.compensated.layer_inputs import patches
from toolkit_quantization.compensated.network import compensated
from toolkit_quantization.compensated.refinement import descend, fitted_scale
from toolkit_quantization.compensated.solver import compensate, inverse_factor, output_error
from toolkit_quantization.compensated.weights import round_weight
from toolkit_quantization.conversion_cost import relative_error
from torch import Tensor, nn

from toolkit import Data, masks
from toolkit.errors import TechniqueError
from toolkit.testing import TOY_MODELS, toy_data, toy_mlp
from toolkit.testing.base import ContractBase

DATA = toy_data(samples=128)


def correlated_inputs(count: int, inputs: int = 64, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, inputs, generator=draw) @ torch.randn(inputs, inputs, generator=draw)


def correlated(inputs: int, seed: int = 0) -> Tensor:
    mixed = correlated_inputs(500, inputs, seed)
    return (mixed.T @ mixed / 500).double().unsqueeze(0)


def solved(rows: Tensor, hessian: Tensor, limit: int = 7) -> Tensor:
    whole = torch.full_like(rows, limit)
    return compensate(rows.unsqueeze(0), hessian, torch.ones(1, *rows.shape), -whole[None], whole[None])[0]


@pytest.mark.parametrize("seed", range(5))
def test_two_weights_are_rounded_as_well_as_by_trying_every_second_one(seed):
    hessian = correlated(2, seed)
    row = 3 * torch.randn(1, 2, generator=torch.Generator().manual_seed(seed))
    first = int(hessian[0].diagonal().argmax())
    values = solved(row, hessian)
    tried = [torch.tensor([list(pair)], dtype=torch.float64) for pair in product(range(-7, 8), repeat=2)]
    same = [each for each in tried if each[0, first] == row[0, first].round()]
    costs = [float(output_error(row[None], each[None], hessian)) for each in same]
    assert float(output_error(row[None], values[None], hessian)) <= 1.05 * min(costs)


def test_a_diagonal_hessian_rounds_to_the_nearest():
    rows = 3 * torch.randn(5, 40)
    values = solved(rows, torch.diag_embed(torch.rand(1, 40).double() + 0.1))
    assert torch.equal(values, rows.double().round().clamp(-7, 7))


def test_the_factor_is_that_of_the_inverse():
    hessian = correlated(6)
    factor = inverse_factor(hessian)[0]
    damped = hessian[0] + 0.01 * hessian[0].diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(factor.T @ factor, damped.inverse())
    assert torch.equal(factor, factor.triu())


def one_by_one(rows: Tensor, hessian: Tensor, limit: int = 7) -> Tensor:
    """Round an input, then solve anew for all weights that are left; the inputs are sorted already."""
    weights, values = rows.double(), torch.empty(rows.shape, dtype=torch.float64)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    for place in range(len(hessian)):
        values[:, place] = weights[:, 0].round().clamp(-limit, limit)
        error, rest = values[:, place] - weights[:, 0], damped[place + 1 :, place + 1 :]
        left = torch.linalg.solve(rest, damped[place + 1 :, place]) if len(rest) else torch.empty(0)
        weights = weights[:, 1:] - error[:, None] * left
    return values


def test_blocks_of_inputs_compensate_each_other():
    hessian, rows = correlated(150)[0], 3 * torch.randn(4, 150)
    order = hessian.diagonal().argsort(descending=True)
    hessian = hessian[order][:, order]
    assert torch.equal(solved(rows, hessian[None]), one_by_one(rows, hessian))


def errors(rows: Tensor, values: Tensor, hessian: Tensor) -> Tensor:
    return output_error(rows[None], values[None], hessian)[0]


@pytest.mark.parametrize("seed", range(3))
def test_rounding_anew_comes_closer_to_the_best_of_all_roundings(seed):
    hessian, rows = correlated(8, seed), 3 * torch.randn(30, 8, generator=torch.Generator().manual_seed(seed)).double()
    one, start = torch.ones(1, *rows.shape).double(), rows.round()
    better = descend(rows[None], start[None], hessian, one, -99 * one, 99 * one, passes=20)[0]
    up_or_down = torch.tensor(list(product([0, 1], repeat=8)))
    least = torch.stack([errors(rows, rows.floor() + each, hessian) for each in up_or_down]).amin(0)
    before, after = errors(rows, start, hessian), errors(rows, better, hessian)
    assert bool((after <= before + 1e-9).all())
    assert float((after - least).sum()) < 0.3 * float((before - least).sum())


def test_after_rounding_anew_no_single_change_helps():
    hessian, rows = correlated(150), 3 * torch.randn(4, 150).double()
    one = torch.ones(1, *rows.shape).double()
    values = descend(rows[None], rows.round()[None], hessian, one, -4 * one, 4 * one, passes=100)[0]
    error = errors(rows, values, hessian)
    for place, change in product(range(150), (-1, 1)):
        other = values.clone()
        other[:, place] = (other[:, place] + change).clamp(-4, 4)
        assert bool((errors(rows, other, hessian) >= error - 1e-9).all())


def test_fitted_scales_are_the_best_for_their_integers():
    hessian, rows = correlated(10), torch.randn(5, 10).double()
    values, scale = (4 * rows).round(), torch.full((5, 3), 0.25).double()
    fit = fitted_scale(rows[None], values[None], hessian, scale[None], group=4)[0]

    def error(scales: Tensor) -> Tensor:
        return errors(rows, values * scales.repeat_interleave(4, dim=1)[:, :10], hessian)

    assert bool((error(fit) < error(scale)).all())
    for place, factor in product(range(3), (0.99, 1.01)):
        other = fit.clone()
        other[:, place] *= factor
        assert bool((error(other) > error(fit)).all())


def test_scales_of_zeros_stay():
    rows, scale = torch.zeros(1, 2, 8).double(), torch.rand(1, 2, 2).double()
    assert torch.equal(fitted_scale(rows, rows, correlated(8), scale, group=4), scale)


@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
@pytest.mark.parametrize("seed", range(3))
def test_no_row_costs_more_than_with_nearest_rounding(dtype, seed):
    hessian, rows = correlated(70, seed), torch.randn(9, 70, generator=torch.Generator().manual_seed(seed))
    rounded, ratio = round_weight(rows, hessian, dtype)
    before = output_error(rows[None], nearest(rows, dtype, False).floats[None], hessian)
    after = output_error(rows[None], rounded.floats[None], hessian)
    assert bool((after <= before).all())
    assert ratio < {"int8": 0.7, "int4": 0.45, "int2": 0.7}[dtype]


@pytest.mark.parametrize("dtype", ["int4", "int2"])
def test_zeros_and_dead_inputs_are_kept(dtype):
    hessian, rows = correlated(64), torch.randn(8, 64)
    rows[:, ::3] = 0
    hessian[:, 5], hessian[:, :, 5] = 0, 0
    rounded = round_weight(rows, hessian, dtype).rounded.floats
    assert bool((rounded[rows == 0] == 0).all())
    assert bool(rounded.isfinite().all())


def test_integers_stay_safe_to_add_in_pairs():
    values = round_weight(torch.randn(50, 70), correlated(70), "int8", overflow_safe=True).rounded.values.int()
    assert int(values.topk(2, dim=1).values.sum(dim=1).max()) <= 128
    assert int((-values).topk(2, dim=1).values.sum(dim=1).max()) <= 128


def quantized(model: nn.Module, data: Data | None = None, **params) -> nn.Module:
    settings = {"dtype": "int4", "max_drop": 100.0, "max_error": 10.0, "rounding": "compensated", **params}
    stage = type("Performing", (ContractBase,), {"technique": "quantization", "params": settings, "finetune": None})()
    return stage._perform(model, data=data).model.eval()


@pytest.mark.parametrize(
    "toy", [pytest.param(toy, marks=[] if toy in ("mlp", "cnn", "lstm") else [pytest.mark.slow]) for toy in TOY_MODELS]
)
@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_each_toy_runs_and_gives_the_same_bits_again(toy, activations):
    torch.manual_seed(0)
    model = TOY_MODELS[toy]().eval()
    once, again = (quantized(masks.clone(model), activations=activations).state_dict() for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, stride=2, groups=2),
        nn.Conv2d(3, 5, (3, 2), padding=1, dilation=2, padding_mode="reflect"),
        nn.Conv3d(2, 4, 2, padding="same"),
    ],
)
def test_patches_are_what_a_convolution_multiplies(layer):
    images = torch.randn(2, layer.in_channels, *[6] * len(layer.kernel_size))
    weight = layer.weight.flatten(1).unflatten(0, (layer.groups, -1))
    outputs = (patches(images, layer) @ weight.transpose(1, 2)).unflatten(1, (2, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    expected = layer(images) - layer.bias.view(-1, *[1] * len(layer.kernel_size))
    torch.testing.assert_close(outputs, expected.flatten(2))


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 3, groups=2, dilation=2)])
def test_grouped_convolutions_are_compensated_and_masks_hold(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), layer, nn.Flatten(), nn.LazyLinear(4)).eval()
    model(DATA.train[0][:2])
    masks.apply(model, {"1.weight": torch.rand_like(layer.weight) > 0.5})
    made = compensated(model, {"0": "int4", "1": "int4"}, DATA.without_test(), 64)
    assert [row["rounding"] for row in made.note.table] == ["compensated"] * 2
    weight = quantized(model).get_submodule("1").dense_weight()
    assert bool((weight[model.get_submodule("1").weight == 0] == 0).all())


def test_what_is_not_compensated_is_rounded_to_the_nearest_with_a_reason():
    model = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    words = torch.arange(4).repeat(8), torch.arange(4).repeat(8)
    dtypes: dict[str, Dtype] = {"0": "int4", "1": "float16", "2": "int8"}
    rounding = compensated(model, dtypes, Data(train=words, validation=words), 32)
    rows = {row["weight"]: (row["rounding"], row["reason"]) for row in rounding.note.table}
    assert rows == {
        "0.weight": ("nearest", "it looks up weights, and multiplies none"),
        "1.weight": ("nearest", "float16 is rounded to the nearest value"),
        "2.weight": ("compensated", None),
    }


def correlated_data() -> Data:
    few = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    images = (correlated_inputs(256, len(few)) @ few).view(-1, 1, 8, 8)
    targets = torch.zeros(len(images), dtype=torch.int64)
    return Data(train=(images, targets), validation=(images, targets), batch_size=64)


def test_outputs_of_a_stage_change_less_than_with_nearest_rounding():
    torch.manual_seed(0)
    model, data = toy_mlp().eval(), correlated_data()
    models = model, quantized(model, data, rounding="nearest"), quantized(model, data)
    before, plain, after = (each(data.train[0]).detach() for each in models)
    assert relative_error(after, before) < 0.5 * relative_error(plain, before)


def test_biases_make_up_for_the_mean_change():
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), correlated_data()
    data = replace(data, train=(data.train[0] + 1, data.train[1]))
    change = quantized(model, data)(data.train[0]).detach() - model(data.train[0]).detach()
    assert float(change.mean(0).abs().max()) < 1e-4 * float(change.abs().max())


@pytest.mark.parametrize("activations", ["static", "dynamic"])
@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_the_recipe_says_how_many_inputs_share_a_scale(activations, rounding):
    model = quantized(toy_mlp(), activations=activations, rounding=rounding, group=16, overrides={"3": "int2"})
    assert [model.get_submodule(name).layer.weight.scale.shape[1] for name in ("1", "3")] == [4, 2]
    model = quantized(toy_mlp(), activations=activations, rounding=rounding, group=0)
    assert [model.get_submodule(name).layer.weight.scale.shape[1] for name in ("1", "3")] == [1, 1]


def test_what_cannot_be_compensated_is_refused():
    with pytest.raises(ValueError, match="needs engine 'toolkit'"):
        Params(rounding="compensated", engine="auto")
    with pytest.raises(TechniqueError, match="convert has none"):
        toolkit_quantization.convert(toy_mlp(), Params(rounding="compensated"))
