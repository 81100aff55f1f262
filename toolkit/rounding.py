"""The grids that weights are rounded to when they are stored in fewer bits, for all who store or train such weights.

The first index of a weight chooses its row, and integers have scales within a row: an output channel of a linear,
convolutional or recurrent layer, an entry of an embedding, an input channel of a transposed convolution. Zeros stay
zero. int2 is an experiment.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.errors import ToolkitError

__all__ = [
    "dequantize_groups",
    "pack_groups",
    "quantize_groups",
    "quantize_rows",
    "round_straight_through",
    "round_to",
]

Dtype = Literal["int8", "int4", "int2", "float16", "bfloat16"]
BITS = {"int4": 4, "int2": 2}
GROUP = 32  # inputs that share a scale in int4 and int2
INT8_MAX = 127
MIN_ROW_MAX = INT8_MAX * torch.finfo(torch.float32).tiny  # a subnormal scale would be too coarse for ±127


def round_to(weight: Tensor, dtype: Dtype, group: int = GROUP) -> Tensor:
    """Return the weight as a layer decodes it that stores it in `dtype`: same shape and dtype, no gradient.

    Args:
        weight: finite floats of two or more dimensions.
        dtype: int8 with a float32 scale per row; int4 or int2 with a bfloat16 scale per group of a row's inputs;
            float16, in which values above 65504 become infinite; or bfloat16.
        group: the inputs that share a scale in int4, a multiple of 2, or in int2, one of 4; 0 for all inputs of a row.
            The other dtypes have no groups.

    Raises:
        ToolkitError: the dtype is unknown, the weight does not fit, or the group is no such multiple.
    """
    _check(weight, dtype, group)
    weight = weight.detach()
    if dtype == "int8":
        values, scale = quantize_rows(weight.flatten(1))
        return values.to(scale.dtype).mul_(scale).reshape(weight.shape).to(weight.dtype)
    if dtype in BITS:
        packed, scale = quantize_groups(weight.flatten(1), group, BITS[dtype])
        rows = dequantize_groups(packed, scale, weight[0].numel(), BITS[dtype])
        return rows.reshape(weight.shape).to(weight.dtype)
    return weight.to(getattr(torch, dtype)).to(weight.dtype)


def round_straight_through(weight: Tensor, dtype: Dtype, group: int = GROUP) -> Tensor:
    """Return `round_to(weight, dtype, group)`, with the gradient of the identity, to train with rounding.

    As in Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013.
    """
    rounded: Tensor = _StraightThrough.apply(weight, dtype, group)
    return rounded


class _StraightThrough(torch.autograd.Function):
    """Rounding whose gradient is that of the identity; a sum with a difference would change the last bit."""

    @staticmethod
    def forward(_: Any, weight: Tensor, dtype: Dtype, group: int) -> Tensor:
        return round_to(weight, dtype, group)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Any:
        return gradients[0], None, None


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to int8 with its own scale: `rows ≈ values * scale`, at most half a scale off.

    Rows (N, K) of any float dtype give values (N, K) int8 within ±127 and scale (N, 1) float32, above zero for
    zeros too; for a row with NaN or infinity, NaN or infinity. As in Dettmers et al., "LLM.int8()", 2022.
    """
    rows = rows.float()
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=MIN_ROW_MAX).div_(INT8_MAX)
    # Given unusual strides, be it those of a single row, `_int_mm` returns uninitialized memory (pytorch#195066).
    return (rows / scale).round_().to(torch.int8, memory_format=torch.contiguous_format), scale


def quantize_groups(rows: Tensor, group: int = GROUP, bits: int = 4) -> tuple[Tensor, Tensor]:
    """Round each group of a row's inputs to int4, or to int2, with its own scale: `rows ≈ values * scale`.

    The largest value of a group becomes -8, with a negative scale if it is positive. With ±7 for the largest, only 15
    of 16 integers would be used, and the error would be an eighth larger. An equally large value of the other sign
    becomes 7. In int2, these are -2 and 1.

    Rows (N, K) may have any float dtype; `group` must be a multiple of the values in a byte, or 0 for a single group.
    Returns the integers plus 8 in int4, plus 2 in int2, packed as by `pack_groups`, with zeros at the end of the last
    group, and the scale (N, G) bfloat16, never zero. As in Dettmers and Zettlemoyer, "The case for 4-bit precision",
    2023, without a zero point.
    """
    half, in_byte = 2 ** (bits - 1), 8 // bits
    group = group or -(-rows.shape[1] // in_byte) * in_byte
    groups = F.pad(rows.float(), (0, -rows.shape[1] % group)).unflatten(1, (-1, group))
    extreme = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True)).squeeze(2)
    smallest = torch.finfo(torch.bfloat16).tiny  # a subnormal scale would be too coarse
    scale = (extreme / -half).bfloat16()
    scale = torch.where(scale.abs() < smallest, smallest, scale)
    values = (groups / scale.float().unsqueeze(2)).round_().clamp_(-half, half - 1)
    return pack_groups(values, bits), scale


def pack_groups(values: Tensor, bits: int = 4) -> Tensor:
    """Pack integers from -8 to 7, or from -2 to 1 for two bits, of any dtype: see `quantize_groups`.

    The integers (N, G, group) become (N, G, group * bits / 8) uint8, the first of a byte in its lowest bits.
    """
    parts = (values + 2 ** (bits - 1)).to(torch.uint8).unflatten(2, (-1, 8 // bits)).unbind(3)
    packed = torch.zeros_like(parts[0])
    for place, part in enumerate(parts):
        packed |= part << (bits * place)
    return packed


def dequantize_groups(packed: Tensor, scale: Tensor, inputs: int, bits: int = 4) -> Tensor:
    """Return the rows (N, inputs) float32 that `packed` and `scale` from `quantize_groups` represent."""
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    values = torch.stack(parts, dim=3).flatten(2).float().sub_(2 ** (bits - 1))
    return values.mul_(scale.float().unsqueeze(2)).flatten(1)[:, :inputs]


def _check(weight: Tensor, dtype: str, group: int) -> None:
    if dtype not in get_args(Dtype):
        raise ToolkitError(f"dtype must be {', '.join(get_args(Dtype)[:-1])} or {get_args(Dtype)[-1]}, found '{dtype}'")
    if not weight.is_floating_point() or weight.dim() < 2 or weight.numel() == 0:
        raise ToolkitError(
            "a weight to round must have float values and two or more dimensions, "
            f"found {tuple(weight.shape)} of {str(weight.dtype).removeprefix('torch.')}"
        )
    if dtype in BITS and (group < 0 or group * BITS[dtype] % 8):
        raise ToolkitError(f"group must be a multiple of {8 // BITS[dtype]} or 0 in {dtype}, found {group}")
