"""Operators that say what a layer of integers computes, for exporters to translate into those of their format.

PyTorch decomposes arithmetic on integers into casts and float products, from which no exporter finds the integers
again. While a model is exported (`exporting()`), layers therefore call one of these operators instead; each runs in
PyTorch, so that what is exported can be compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)
INT8_MAX, UINT8_MAX = 127, 255
SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # a subnormal scale would be too coarse to reach ±127


@contextmanager
def exporting() -> Iterator[None]:
    """Layers call the operators of this module inside."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


def is_exporting() -> bool:
    """Return whether a model is being exported."""
    return _exporting.get()


@torch.library.custom_op("toolkit::dequantize", mutates_args=())
def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """Return the floats that integers stand for: `values` (rows, …) int8 times `scale` (rows,) float32."""
    return values.float() * scale.view(-1, *[1] * (values.dim() - 1))


@dequantize.register_fake
def _(values: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001  # the operator's signature
    return torch.empty_like(values, dtype=torch.float32)


@torch.library.custom_op("toolkit::dequantize_int4", mutates_args=())
def dequantize_int4(packed: Tensor, scale: Tensor, shape: list[int]) -> Tensor:
    """Return the floats of `shape` that int4 in groups stands for.

    `packed` (rows, groups, group / 2) uint8 holds the integers plus 8, two in a byte, the first in its lower half;
    `scale` (rows, groups) of any float dtype. Values beyond a row's inputs, in its last group, are dropped.
    """
    values = torch.stack((packed & 15, packed >> 4), dim=3).flatten(2).float() - 8
    rows = (values * scale.float().unsqueeze(2)).flatten(1)
    return rows[:, : math.prod(shape[1:])].reshape(shape)


@dequantize_int4.register_fake
def _(packed: Tensor, scale: Tensor, shape: list[int]) -> Tensor:  # noqa: ARG001  # the operator's signature
    return packed.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("toolkit::widen", mutates_args=())
def widen(values: Tensor) -> Tensor:
    """Floats of 16 bits as float32."""
    return values.to(torch.float32, copy=True)


@widen.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values, dtype=torch.float32)


@torch.library.custom_op("toolkit::int8_linear", mutates_args=())
def int8_linear(inputs: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear layer that rounds each row of its inputs to int8 with its own scale and multiplies integers.

    Inputs (…, in) float32, weight (out, in) int8, scale (out,) float32, bias (out,) float32 give (…, out) float32.
    """
    row_scale = inputs.abs().amax(-1, keepdim=True).clamp(min=INT8_MAX * SMALLEST_SCALE) / INT8_MAX
    # In float64 sums of products of int8 are exact.
    products = (inputs / row_scale).round().double() @ weight.double().t()
    outputs = products.float() * scale * row_scale
    return outputs if bias is None else outputs + bias


@int8_linear.register_fake
def _(inputs: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001  # the operator's signature
    return inputs.new_empty(*inputs.shape[:-1], weight.shape[0])


@torch.library.custom_op("toolkit::fake_quantize", mutates_args=())
def fake_quantize(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Round `values` to unsigned bytes, `round(value / scale) + zero_point`, and return what these stand for.

    Values (…) float32, scale () float32 and zero point () uint8 give (…) float32.
    """
    zero = zero_point.float()
    return ((values / scale).round() + zero).clamp(0, UINT8_MAX).sub(zero) * scale


@fake_quantize.register_fake
def _(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:  # noqa: ARG001  # the operator's signature
    return torch.empty_like(values)


__all__ = ["dequantize", "dequantize_int4", "exporting", "fake_quantize", "int8_linear", "is_exporting", "widen"]
