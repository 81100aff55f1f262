"""Operators that say what a layer of integers computes, for exporters to translate into those of their format.

PyTorch decomposes arithmetic on integers into casts and float products, from which no exporter finds the integers
again. While a model is exported (`exporting()`), layers therefore call one of these operators instead; each runs in
PyTorch, so that what is exported can be compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)
INT8_MAX = 127
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
    """Whether a model is being exported."""
    return _exporting.get()


@torch.library.custom_op("toolkit::dequantize", mutates_args=())
def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """The floats that integers stand for: `values` (rows, …) int8 times `scale` (rows,) float32."""
    return values.float() * scale.view(-1, *[1] * (values.dim() - 1))


@dequantize.register_fake
def _(values: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(values, dtype=torch.float32)


@torch.library.custom_op("toolkit::int8_linear", mutates_args=())
def int8_linear(inputs: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer that rounds each row of its inputs to int8 with a scale of its own and multiplies integers.

    Inputs (…, in) float32, weight (out, in) int8, scale (out,) float32, bias (out,) float32 give (…, out) float32.
    """
    row_scale = inputs.abs().amax(-1, keepdim=True).clamp(min=INT8_MAX * SMALLEST_SCALE) / INT8_MAX
    # In float64 sums of products of int8 are exact.
    products = (inputs / row_scale).round().double() @ weight.double().t()
    outputs = products.float() * scale * row_scale
    return outputs if bias is None else outputs + bias


@int8_linear.register_fake
def _(inputs: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return inputs.new_empty(*inputs.shape[:-1], weight.shape[0])


__all__ = ["dequantize", "exporting", "int8_linear", "is_exporting"]
