"""Weights in int8 whose sums no processor gets wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit import operators, stored_as
from toolkit_quantization.codecs import Encoded, Rounding
from toolkit_quantization.kernels import INT8_MAX, MIN_ROW_MAX

SAFE_MAX = 64  # two weights of at most this size cannot overflow
MAX_BIAS = 2**30  # leaves room in int32 for the products that a bias is added to


def quantize_without_overflow(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows (out, in) to int8 and scale (out,) float32, so that pairs of products fit into 16 bits.

    Without VNNI, x86 multiplies an unsigned by a signed byte and adds two such products in 16 bits, which saturate. The
    two largest weights of a row add up to at most 128 here, and the two smallest to at least -128, so that no pair
    exceeds 255 · 128 = 32,640, whichever weights are paired. Most rows reach ±70, where ±64 would be safe for all.
    """
    rows = rows.float()
    largest = rows.abs().amax(dim=1)
    pairs = [_sum_of_two(rows.clamp(min=0)), _sum_of_two((-rows).clamp(min=0))]
    # Rounding adds at most a half to each of two values: 127 + 2 / 2 = 128.
    scale = torch.stack([largest, *pairs]).amax(dim=0).clamp_(min=MIN_ROW_MAX) / INT8_MAX
    return (rows / scale.unsqueeze(1)).round_().to(torch.int8), scale


def beside_bias(quantize: Rounding, bias: Tensor, step: Tensor) -> Rounding:
    """Return the rounding with coarser scales for the rows whose bias int32 could not hold: see `wide_enough`."""

    def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
        values, fine = quantize(rows)
        scale = wide_enough(fine, bias, step)
        return (values * (fine / scale).unsqueeze(1)).round().to(torch.int8), scale

    return rounded


def wide_enough(scale: Tensor, bias: Tensor, step: Tensor) -> Tensor:
    """Return the scale (out,) of weights, larger where the bias (out,) is too many of the products' units.

    That unit is the scale times the `step` () of the inputs. It is tiny in a row of zeros, or of weights that are
    nothing next to the bias.
    """
    return torch.maximum(scale, bias.detach().abs().float() / (step * MAX_BIAS))


def overflows(values: Tensor) -> bool:
    """Return whether two weights of a row (out, in) int8 are so large that a pair of products may exceed 16 bits."""
    rows = values.float()
    return max(float(_sum_of_two(each).max()) for each in (rows, -rows)) > 2 * SAFE_MAX


@stored_as("quantization.Int32Bias")
class Int32Bias(Encoded):
    """A bias in int32, in the unit of the products that it is added to: the scale of the inputs times the weights'."""

    precision = "int32"
    values: Tensor
    scale: Tensor

    def __init__(self, bias: Tensor, scale: Tensor) -> None:
        """Round `bias` (out,) to multiples of `scale` (out,)."""
        super().__init__(bias)
        self.register_buffer("values", round_bias(bias, scale))
        self.register_buffer("scale", scale.float())

    def _decoded(self, *parts: Tensor) -> Tensor:
        values, scale = parts
        return values.to(scale.dtype) * scale

    def _exported(self, *parts: Tensor) -> Tensor:
        return operators.dequantize(*parts)


def round_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """Return the int32 (out,) that stand for a bias (out,) in units of `scale` (out,)."""
    limits = torch.iinfo(torch.int32)
    values = (bias.detach().double() / scale.double()).round()
    return values.clamp(limits.min, limits.max).to(torch.int32)


def _sum_of_two(rows: Tensor) -> Tensor:
    return rows.topk(min(2, rows.shape[1]), dim=1).values.sum(dim=1)
