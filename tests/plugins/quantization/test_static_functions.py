"""Static quantization as functions from tensors to tensors: grids, ranges, folded norms and safe weights."""

import itertools

import pytest
import torch
from toolkit_quantization.static.affine import affine, fake_quantize
from toolkit_quantization.static.norm_folding import Norm, folded
from toolkit_quantization.static.ranges import histogram, mse_range, percentile_range
from toolkit_quantization.static.weights import Int32Bias, quantize_without_overflow
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from toolkit import operators

RANGES = [(-1.0, 3.0), (0.0, 6.0), (-2.5, 0.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0), (-1e-42, 1e-42), (-1e30, 1e30)]


def between(low: float, high: float, count: int = 1000) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(0)) * (high - low) + low


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_zero_is_exact_and_no_value_is_further_off_than_half_a_step(low, high):
    scale, zero_point = affine(torch.tensor(low), torch.tensor(high))
    assert (scale.dtype, zero_point.dtype) == (torch.float32, torch.uint8)
    assert fake_quantize(torch.zeros(3), scale, zero_point).eq(0).all()
    values = between(low, high)
    assert (fake_quantize(values, scale, zero_point) - values).abs().max() <= 1.001 * scale / 2 + 1e-6 * abs(high)


@pytest.mark.parametrize(("low", "high"), RANGES[:5])
def test_values_are_rounded_as_torch_rounds_them(low, high):
    scale, zero_point = affine(torch.tensor(low), torch.tensor(high))
    values = between(low - 1, high + 1)
    zero = int(zero_point)
    expected = torch.fake_quantize_per_tensor_affine(values, float(scale), zero, 0, 255)
    found = fake_quantize(values, scale, zero_point)
    # torch multiplies by the inverse of the scale, which decides otherwise for few values halfway between two steps.
    assert (found - expected).abs().max() <= 1.001 * scale
    assert (found - expected).abs().gt(scale / 2).float().mean() < 0.01
    assert torch.equal(found, operators.fake_quantize(values, scale, zero_point))


def test_gradients_are_those_of_learned_steps():
    scale, zero_point = torch.tensor(0.1, requires_grad=True), torch.tensor(0, dtype=torch.uint8)
    values = torch.tensor([-1.0, 0.26, 30.0], requires_grad=True)
    fake_quantize(values, scale, zero_point).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]
    # Esser et al.: 0 below the range, round(v / s) - v / s within it, the largest step beyond it.
    torch.testing.assert_close(scale.grad, torch.tensor(0.0 + (3 - 2.6) + 255.0))


def test_the_rounded_values_do_not_depend_on_gradients():
    scale, zero_point = affine(torch.tensor(-1.0), torch.tensor(2.0))
    values = between(-2, 3)
    with_gradient = fake_quantize(values.clone().requires_grad_(), scale, zero_point)
    assert torch.equal(with_gradient.detach(), fake_quantize(values, scale, zero_point))


def test_percentiles_leave_out_rare_values():
    values = torch.cat([torch.linspace(-1, 1, 100_000), torch.tensor([50.0, -30.0])])
    seen = histogram(values, values.min(), values.max(), bins=16_000)
    low, high = percentile_range(seen, 99.9)
    torch.testing.assert_close(torch.stack([low, high]), torch.tensor([-1.0, 1.0]), rtol=0.02, atol=0)
    assert int(seen.counts.sum()) == len(values)


def test_the_range_of_the_smallest_error_is_no_worse_than_the_whole_one():
    values = torch.cat([torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)), torch.tensor([20.0])])

    def error(low, high):
        return (fake_quantize(values, *affine(low, high)) - values).square().mean()

    seen = histogram(values, values.min(), values.max())
    low, high = mse_range(seen)
    assert high < values.max()
    assert error(low, high) < error(values.min(), values.max()) * 0.8


def test_of_a_constant_tensor_every_range_is_that_value():
    values = torch.full((10,), 3.0)
    seen = histogram(values, values.min(), values.max())
    for low, high in (mse_range(seen), percentile_range(seen)):
        torch.testing.assert_close(fake_quantize(values, *affine(low, high)), values)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 3), nn.Conv1d(3, 5, 3), nn.Linear(3, 5)])
def test_norms_are_folded_as_torch_folds_them(layer, bias):
    norm = Norm(torch.randn(5), torch.rand(5) + 0.1, torch.randn(5), torch.randn(5), 1e-5)
    given = layer.bias.detach() if bias else None
    expected = fuse_conv_bn_weights(layer.weight, given, norm.mean, norm.variance, norm.eps, norm.weight, norm.bias)
    for found, wanted in zip(folded(layer.weight.detach(), given, norm), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["random", "equal", "two", "one", "zero"])
def test_no_pair_of_products_overflows_16_bits(kind, sign):
    """Whichever two weights of a row a processor without VNNI adds, and whatever the activations are."""
    generator = torch.Generator().manual_seed(0)
    rows = {
        "random": torch.randn(500, 9, generator=generator),
        "equal": torch.ones(3, 9),
        "two": torch.tensor([[1.0, 0.999, 0.1], [1.0, 0.26, -1.0]]),
        "one": torch.tensor([[5.0], [1e-3]]),
        "zero": torch.zeros(2, 4),
    }[kind] * sign
    values, scale = quantize_without_overflow(rows)
    for first, second in itertools.combinations(values.long().unbind(1), 2):
        for left, right in itertools.product((0, 255), repeat=2):
            sums = left * first + right * second
            assert sums.max() < 2**15
            assert sums.min() >= -(2**15)
    assert (values * scale.unsqueeze(1) - rows).abs().max() <= scale.max() * 0.5001
    assert values.abs().max() <= 127


def test_a_lone_large_weight_uses_the_whole_range():
    values, _ = quantize_without_overflow(torch.tensor([[10.0, 0.001, 0.0]]))
    assert values.abs().max() == 127


def test_a_bias_is_a_multiple_of_the_products_unit():
    bias = torch.tensor([0.123, -4.0, 1e9])
    stored = Int32Bias(bias, torch.tensor([1e-3, 2e-3, 1e-9]))
    assert stored.values.dtype == torch.int32
    torch.testing.assert_close(stored()[:2], bias[:2], atol=1e-3, rtol=0)
    assert stored.values[2] == 2**31 - 1
