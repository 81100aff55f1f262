"""Weights in fewer bits and back: what is rounded to what, and how many bytes it takes."""

import pytest
import torch
from toolkit_quantization import Params, codecs, convert
from toolkit_quantization.codecs import encode
from torch import Tensor

from toolkit import masks, rounding
from toolkit.replacements import replaced_layers
from toolkit.rounding import dequantize_groups, quantize_groups
from toolkit.testing import TOY_MODELS

DTYPES = ["int8", "int4", "int2", "float16", "bfloat16"]
SHAPES = [(5, 33), (4, 64), (3, 1), (6, 4, 3, 3), (1, 7)]


def unpacked(packed: Tensor) -> list[list[list[int]]]:
    """The integers in plain Python."""
    return [
        [[half - 8 for byte in group for half in (byte % 16, byte // 16)] for group in row] for row in packed.tolist()
    ]


@pytest.mark.smoke
def test_int4_rounds_each_group_by_its_own_scale():
    rows = torch.randn(7, 70) * torch.logspace(-4, 4, 7).unsqueeze(1)
    packed, scale = quantize_groups(rows)
    assert (packed.dtype, packed.shape) == (torch.uint8, (7, 3, 16))
    assert (scale.dtype, scale.shape) == (torch.bfloat16, (7, 3))
    for row, integers, scales in zip(rows.tolist(), unpacked(packed), scale.tolist(), strict=True):
        for number, (group, step) in enumerate(zip(integers, scales, strict=True)):
            values = row[32 * number : 32 * number + 32]
            largest = max(values, key=abs)
            assert step == pytest.approx(largest / -8, rel=2**-8)
            assert group[len(values) :] == [0] * (32 - len(values))
            for value, integer in zip(values, group, strict=False):
                exact = value / step
                assert -8 <= integer <= 7
                assert integer == 7 or abs(integer - exact) <= 0.5 + 0.04
    restored = dequantize_groups(packed, scale, 70)
    expected = torch.tensor(unpacked(packed)).double() * scale.double().unsqueeze(2)
    assert torch.equal(restored.double(), expected.flatten(1)[:, :70])


def test_int4_packs_the_first_of_two_into_the_lower_half():
    packed, scale = quantize_groups(torch.tensor([[-8.0, 7.0, 1.0, 0.0]]), group=4)
    assert packed.tolist() == [[[0 + 16 * 15, 9 + 16 * 8]]]
    assert scale.tolist() == [[1.0]]
    packed, scale = quantize_groups(torch.tensor([[8.0, -8.0, 1.0, 0.0]]), group=4)
    assert unpacked(packed) == [[[-8, 7, -1, 0]]]
    assert scale.tolist() == [[-1.0]]


def test_int2_packs_the_first_of_four_into_the_lowest_bits():
    packed, scale = quantize_groups(torch.tensor([[-4.0, 2.1, 1.2, 0.4], [0.0, 5.0, -2.4, -4.0]]), group=4, bits=2)
    assert packed.tolist() == [[[0 + 4 * 3 + 16 * 3 + 64 * 2]], [[2 + 4 * 0 + 16 * 3 + 64 * 3]]]
    assert scale.tolist() == [[2.0], [-2.5]]
    rows = dequantize_groups(packed, scale, 4, bits=2)
    assert rows.tolist() == [[-4.0, 2.0, 2.0, 0.0], [0.0, 5.0, -2.5, -2.5]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_stay_zeros_and_rows_can_be_decoded_alone(dtype, shape):
    weight = torch.randn(shape)
    zero = torch.rand(shape) < 0.5
    weight[zero] = 0
    encoded = encode(weight, dtype)
    decoded = encoded()
    assert (decoded.shape, decoded.dtype) == (weight.shape, weight.dtype)
    assert (decoded[zero] == 0).all()
    coarsest = 0.51 if dtype == "int2" else 0.15  # of 2 bits, -2 reaches twice as far as 1
    assert ((decoded - weight).abs() <= coarsest * weight.abs().max()).all()
    rows = torch.randint(0, shape[0], (9,))
    assert torch.equal(encoded(rows), decoded[rows])
    assert encoded(rows[:0]).shape == (0, *shape[1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e4])
def test_no_weight_is_too_small_or_too_large_for_its_scale(dtype, size):
    decoded = encode(torch.full((2, 40), size), dtype)()
    assert decoded.isfinite().all()
    torch.testing.assert_close(decoded, torch.full((2, 40), size), rtol=0.01, atol=1e-7)


@pytest.mark.parametrize("kept", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_come_back_in_their_own_dtype(dtype, kept):
    weight = torch.randn(4, 64).to(kept)
    decoded = encode(weight, dtype)()
    assert decoded.dtype == kept
    assert (decoded - weight).norm() / weight.norm() < (0.6 if dtype == "int2" else 0.12)


@pytest.mark.parametrize(
    ("dtype", "bits"), [("int8", 8.125), ("int4", 4.5), ("int2", 2.5), ("float16", 16), ("bfloat16", 16)]
)
def test_the_bits_that_a_weight_takes(dtype, bits):
    encoded = encode(torch.randn(64, 256), dtype)
    assert sum(buffer.nbytes for buffer in encoded.buffers()) * 8 / (64 * 256) == bits


@pytest.mark.parametrize(("dtype", "bits"), [("int4", 4), ("int2", 2)])
def test_all_inputs_of_a_row_can_share_a_scale(dtype, bits):
    weight = torch.randn(64, 3, 11)
    encoded = encode(weight, dtype, group=0)
    assert encoded.get_buffer("scale").shape == (64, 1)
    assert sum(buffer.nbytes for buffer in encoded.buffers()) == 64 * (-(-33 * bits // 8) + 2)
    assert torch.equal(encoded(), rounding.round_to(weight, dtype, group=0))


def test_what_a_dtype_cannot_hold():
    large, whole = torch.tensor([[1e5]]), torch.ones(2, 2, dtype=torch.int64)
    assert codecs.why_not([large], "float16") == "it has weights that float16 cannot hold"
    assert codecs.why_not([large], "int4") is None
    assert codecs.why_not([large, whole], "int8") == "its weight is (2, 2) of torch.int64"
    assert codecs.why_not([torch.empty(3, 0)], "int8") == "its weight is (3, 0) of torch.float32"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("toy", TOY_MODELS)
def test_the_public_rounding_is_what_stored_layers_decode_to(toy, dtype):
    model = TOY_MODELS[toy]()
    masks.apply(
        model, {weight.path: weight.value > 0 for weight in masks.named_weights(model) if weight.value.dim() > 1}
    )
    before = {weight.path: weight.value for weight in masks.named_weights(model)}
    compared = 0
    for layer in replaced_layers(convert(model, Params(dtype=dtype))):
        for name, decoded in layer.weights.items():
            assert torch.equal(decoded, rounding.round_to(before[f"{layer.path}.{name}"], dtype)), name
            compared += 1
    assert compared >= 2
