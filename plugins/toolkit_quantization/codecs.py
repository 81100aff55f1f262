"""Encodes weights in fewer bits, and decodes them: int8 per row, int4 and int2 in groups, 16 bits. Zeros stay zero.

The first index of a weight chooses its row: an output channel of a linear, convolutional or recurrent layer, an entry
of an embedding, an input channel of a transposed convolution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from toolkit import operators, rounding, stored_as
from toolkit_quantization.int8 import quantize_per_channel

Dtype = Literal["int8", "int4", "int2", "float16", "bfloat16"]
GROUP = 32  # inputs that share a scale in int4 and int2
BITS = {"int8": 8, "int4": 4, "int2": 2}
Rounding: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


class Encoded(nn.Module, ABC):
    """A weight in fewer bits, in buffers whose first dimension runs over its rows."""

    precision: str

    def __init__(self, weight: Tensor) -> None:
        """Keep the shape and the dtype of the weight, which decoding restores."""
        super().__init__()
        self.shape, self.dtype = tuple(weight.shape), weight.dtype

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Return the weight in floats, or only some `rows` of it, int (N,)."""
        parts = [part if rows is None else part.index_select(0, rows) for part in self.buffers()]
        if operators.is_exporting() and rows is None:
            return self._exported(*parts)
        return self._decoded(*parts).reshape(-1, *self.shape[1:]).to(self.dtype)

    def write(self, floats: Tensor) -> None:
        """Decode into a tensor of the weight's shape and dtype."""
        floats.copy_(self())

    @abstractmethod
    def _decoded(self, *parts: Tensor) -> Tensor:
        """Return the floats that rows of the buffers stand for, in any shape."""

    @abstractmethod
    def _exported(self, *parts: Tensor) -> Tensor:
        """Decode by an operator that exporters know, to float32 in the weight's shape."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # A model that is converted to another dtype computes in that dtype.
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.dtype}"


@stored_as("quantization.Int8")
class Int8(Encoded):
    """A weight in int8 with a float32 scale per row."""

    precision = "int8"
    values: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, quantize: Rounding = quantize_per_channel) -> None:
        """Hold the values (rows, …) int8 and the scale (rows,) float32 that `quantize` returns for the rows."""
        super().__init__(weight)
        values, scale = quantize(weight.flatten(1))
        self.register_buffer("values", values.view(weight.shape))
        self.register_buffer("scale", scale)

    def write(self, floats: Tensor) -> None:
        floats.copy_(self.values).mul_(self.scale.view(-1, *[1] * (floats.dim() - 1)))

    def _decoded(self, *parts: Tensor) -> Tensor:
        values, scale = parts
        return values.to(scale.dtype).mul_(scale.view(-1, *[1] * (values.dim() - 1)))

    def _exported(self, *parts: Tensor) -> Tensor:
        return operators.dequantize(*parts)


@stored_as("quantization.Int4")
class Int4(Encoded):
    """A weight in int4, two values a byte, with a bfloat16 scale for each group of inputs of a row."""

    precision = "int4"
    bits = BITS["int4"]
    values: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, quantize: Rounding | None = None, group: int = GROUP) -> None:
        """Hold the packed values and the scale that `quantize` returns for the rows: see `rounding.quantize_groups`.

        Without it, `group` inputs share a scale, or with 0 all inputs of a row.
        """
        super().__init__(weight)
        self.inputs = weight[0].numel()
        quantize = partial(rounding.quantize_groups, group=group, bits=self.bits) if quantize is None else quantize
        for name, tensor in zip(("values", "scale"), quantize(weight.flatten(1)), strict=True):
            self.register_buffer(name, tensor)

    def _decoded(self, *parts: Tensor) -> Tensor:
        packed, scale = parts
        return rounding.dequantize_groups(packed, scale, self.inputs, self.bits)

    def _exported(self, *parts: Tensor) -> Tensor:
        return operators.dequantize_int4(*parts, list(self.shape))


@stored_as("quantization.Int2")
class Int2(Int4):
    """A weight in int2, four values a byte, with scales like those of int4; an experiment."""

    precision = "int2"
    bits = BITS["int2"]

    def _exported(self, *parts: Tensor) -> Tensor:
        return operators.dequantize_int2(*parts, list(self.shape))


@stored_as("quantization.Short")
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
        return operators.widen(parts[0])


INTEGERS: dict[Dtype, Callable[..., Encoded]] = {"int8": Int8, "int4": Int4, "int2": Int2}


def encode(weight: Tensor, dtype: Dtype, group: int = GROUP) -> Encoded:
    """Encode a finite float weight of two or more dimensions; the result does not keep the weight.

    `group` inputs share a scale in int4 and int2, or with 0 all inputs of a row.
    """
    if dtype == "float16" or dtype == "bfloat16":
        return Short(weight, dtype)
    if dtype == "int8":
        return Int8(weight)
    return INTEGERS[dtype](weight, group=group)


def why_not(weights: Sequence[Tensor], dtype: Dtype) -> str | None:
    """Return the reason why a dtype cannot hold these weights, None if it can."""
    for weight in weights:
        shape = tuple(weight.shape)
        if not weight.is_floating_point() or weight.numel() == 0:
            return f"its weight is {shape} of {weight.dtype}"
        if dtype == "float16" and bool((weight.abs() > torch.finfo(torch.float16).max).any()):
            return "it has weights that float16 cannot hold"
    return None
