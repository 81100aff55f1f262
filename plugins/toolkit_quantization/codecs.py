"""Weights in fewer bits, and back: int8 per row, int4 in groups, float16 and bfloat16. A zero stays a zero.

A row of a weight is what its first index chooses: an output channel of a linear, convolutional or recurrent layer,
an entry of an embedding, an input channel of a transposed convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.operators import dequantize, dequantize_int4, is_exporting, widen
from toolkit_quantization.int8 import quantize_per_channel

Dtype = Literal["int8", "int4", "float16", "bfloat16"]
GROUP = 32  # inputs that share one scale in int4
LARGEST_INT4 = 8


def quantize_groups(rows: Tensor, group: int = GROUP) -> tuple[Tensor, Tensor]:
    """Round each group of a row's inputs to int4 with its own scale: `rows ≈ values * scale`.

    The largest of a group becomes -8, by a scale of the other sign where it is positive: with ±7 for the largest, 15
    of 16 integers would be used and the error were an eighth larger. An opposite one as large becomes 7.

    Rows (N, K) of any float dtype, an even `group`; returned are the integers plus 8, two in a byte, the first of
    them in its lower half, (N, G, group / 2) uint8 with zeros at the end of the last group, and scale (N, G)
    bfloat16, never zero. As in Dettmers and Zettlemoyer, "The case for 4-bit precision", 2023, without a zero point.
    """
    groups = F.pad(rows.float(), (0, -rows.shape[1] % group)).unflatten(1, (-1, group))
    extreme = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True)).squeeze(2)
    smallest = torch.finfo(torch.bfloat16).tiny  # a subnormal scale would be too coarse
    scale = (extreme / -LARGEST_INT4).bfloat16()
    scale = torch.where(scale.abs() < smallest, smallest, scale)
    values = (groups / scale.float().unsqueeze(2)).round_().clamp_(-LARGEST_INT4, LARGEST_INT4 - 1)
    low, high = (values + LARGEST_INT4).to(torch.uint8).unflatten(2, (-1, 2)).unbind(3)
    return low | (high << 4), scale


def dequantize_groups(packed: Tensor, scale: Tensor, inputs: int) -> Tensor:
    """The rows (N, inputs) float32 that `packed` and `scale` of `quantize_groups` stand for."""
    values = torch.stack((packed & 15, packed >> 4), dim=3).flatten(2).float().sub_(LARGEST_INT4)
    return values.mul_(scale.float().unsqueeze(2)).flatten(1)[:, :inputs]


class Encoded(nn.Module):
    """A weight in fewer bits, in buffers that have its rows as their first dimension."""

    precision: str

    def __init__(self, weight: Tensor) -> None:
        """Take over the shape and the dtype of the weight, which it is decoded to."""
        super().__init__()
        self.shape, self.dtype = tuple(weight.shape), weight.dtype

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """The weight in floats, or of it the given rows, int (N,)."""
        parts = [part if rows is None else part.index_select(0, rows) for part in self.buffers()]
        if is_exporting() and rows is None:
            return self._exported(*parts)
        return self._decoded(*parts).reshape(-1, *self.shape[1:]).to(self.dtype)

    def write(self, floats: Tensor) -> None:
        """Decode into a tensor of the weight's shape and dtype."""
        floats.copy_(self())

    def _decoded(self, *parts: Tensor) -> Tensor:
        raise NotImplementedError

    def _exported(self, *parts: Tensor) -> Tensor:
        """Decode by an operator that exporters know, to float32 in the weight's shape."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # A model that is moved to another dtype computes in that.
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.dtype}"


class Int8(Encoded):
    """A weight in int8 with a float32 scale per row."""

    precision = "int8"
    values: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        values, scale = quantize_per_channel(weight.flatten(1))
        self.register_buffer("values", values.view(weight.shape))
        self.register_buffer("scale", scale)

    def write(self, floats: Tensor) -> None:
        floats.copy_(self.values).mul_(self.scale.view(-1, *[1] * (floats.dim() - 1)))

    def _decoded(self, *parts: Tensor) -> Tensor:
        values, scale = parts
        return values.to(scale.dtype).mul_(scale.view(-1, *[1] * (values.dim() - 1)))


    def _exported(self, *parts: Tensor) -> Tensor:
        return dequantize(*parts)


class Int4(Encoded):
    """A weight in int4, two values a byte, with a bfloat16 scale for every `GROUP` inputs of a row."""

    precision = "int4"
    values: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.inputs = weight[0].numel()
        for name, tensor in zip(("values", "scale"), quantize_groups(weight.flatten(1)), strict=True):
            self.register_buffer(name, tensor)

    def _decoded(self, *parts: Tensor) -> Tensor:
        packed, scale = parts
        return dequantize_groups(packed, scale, self.inputs)

    def _exported(self, *parts: Tensor) -> Tensor:
        return dequantize_int4(*parts, list(self.shape))


class Short(Encoded):
    """A weight in 16 bits."""

    values: Tensor

    def __init__(self, weight: Tensor, dtype: Literal["float16", "bfloat16"]) -> None:
        super().__init__(weight)
        self.precision = dtype
        self.register_buffer("values", weight.to(getattr(torch, dtype)))

    def _decoded(self, *parts: Tensor) -> Tensor:
        return parts[0]

    def _exported(self, *parts: Tensor) -> Tensor:
        return widen(parts[0])


def encode(weight: Tensor, dtype: Dtype) -> Encoded:
    """A float weight of two dimensions or more, finite, in that dtype; it is kept no longer than this takes."""
    if dtype == "int8":
        return Int8(weight)
    if dtype == "int4":
        return Int4(weight)
    return Short(weight, dtype)


def why_not(weights: Sequence[Tensor], dtype: Dtype) -> str | None:
    """The reason for which a dtype cannot hold these weights, None if it can."""
    for weight in weights:
        shape = tuple(weight.shape)
        if not weight.is_floating_point() or weight.numel() == 0:
            return f"its weight is {shape} of {weight.dtype}"
        if dtype == "float16" and bool((weight.abs() > torch.finfo(torch.float16).max).any()):
            return "it has weights that float16 cannot hold"
    return None
