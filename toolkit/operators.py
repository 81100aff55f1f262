"""Operators that say what a layer of integers computes, for exporters to translate into those of their format.

PyTorch decomposes arithmetic on integers into casts and float products, from which no exporter finds the integers
again. While a model is exported (`exporting()`), layers therefore call one of these operators instead; each runs in
PyTorch, so that what is exported can be compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    return _floats(packed, scale, shape, bits=4)


@dequantize_int4.register_fake
def _(packed: Tensor, scale: Tensor, shape: list[int]) -> Tensor:  # noqa: ARG001  # the operator's signature
    return packed.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("toolkit::dequantize_int2", mutates_args=())
def dequantize_int2(packed: Tensor, scale: Tensor, shape: list[int]) -> Tensor:
    """Return the floats of `shape` that int2 in groups stands for: as `dequantize_int4`.

    `packed` (rows, groups, group / 4) uint8 holds the integers plus 2, four in a byte, the first in its lowest bits.
    """
    return _floats(packed, scale, shape, bits=2)


@dequantize_int2.register_fake
def _(packed: Tensor, scale: Tensor, shape: list[int]) -> Tensor:  # noqa: ARG001  # the operator's signature
    return packed.new_empty(shape, dtype=torch.float32)


def _floats(packed: Tensor, scale: Tensor, shape: list[int], bits: int) -> Tensor:
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    values = torch.stack(parts, dim=3).flatten(2).float() - 2 ** (bits - 1)
    rows = (values * scale.float().unsqueeze(2)).flatten(1)
    return rows[:, : math.prod(shape[1:])].reshape(shape)


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


@torch.library.custom_op("toolkit::int8_lstm", mutates_args=())
def int8_lstm(
    inputs: Tensor, hidden: Tensor, cell: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply one layer of an LSTM that rounds its inputs and its states to bytes, and multiplies integers.

    The inputs have one scale and one zero point for all steps and samples, the states of each step one for all samples.

    Args:
        inputs: (steps, N, in) float32.
        hidden: the first states (directions, N, H) float32.
        cell: as `hidden`.
        parameters: for each direction the weight (4 H, in) int8 of the inputs and its scale (4 H,), weight and scale
            of the states, and, if there are biases, both (4 H,); gates are in PyTorch's order.

    Returns:
        Outputs (steps, N, directions · H), and the last states (directions, N, H) each.
    """
    outputs, last = [], []
    for direction, (weight, scale, state_weight, state_scale, *biases) in enumerate(by_direction(hidden, parameters)):
        steps = byte_products(inputs.flip(0) if direction else inputs, weight, scale)
        state, memory, states = hidden[direction], cell[direction], []
        for step in sum(biases, steps):
            gates = (step + byte_products(state, state_weight, state_scale)).chunk(4, dim=1)
            memory = gates[1].sigmoid() * memory + gates[0].sigmoid() * gates[2].tanh()
            state = gates[3].sigmoid() * memory.tanh()
            states.append(state)
        outputs.append(torch.stack(states[::-1] if direction else states))
        last.append((state, memory))
    after, memories = (torch.stack(each) for each in zip(*last, strict=True))
    return torch.cat(outputs, dim=2), after, memories


@int8_lstm.register_fake
def _(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    parameters: Sequence[Tensor],  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = inputs.new_empty(*inputs.shape[:2], hidden.shape[0] * hidden.shape[2])
    return outputs, torch.empty_like(hidden), torch.empty_like(cell)


def by_direction(hidden: Tensor, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """Return the parameters of each direction of a recurrent layer; `hidden` (directions, N, H) has as many."""
    count = len(parameters) // len(hidden)
    return [parameters[start : start + count] for start in range(0, len(parameters), count)]


def byte_products(values: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Round `values` (…, in) to unsigned bytes of their range, with zero in it, and multiply with integers.

    The weight (out, in) int8 with a scale (out,) float32 gives (…, out) float32.
    """
    low, high = (end.clamp(**{bound: 0.0}) for end, bound in zip(values.aminmax(), ("max", "min"), strict=True))
    step = (high - low) / UINT8_MAX
    step = torch.where(step > 0, step, 1.0)
    zero = (-low / step).round()
    rounded = ((values / step).round() + zero).clamp(0, UINT8_MAX) - zero
    return (rounded.double() @ weight.double().t()).float() * (step * scale)  # in float64 the sums are exact


__all__ = [
    "by_direction",
    "byte_products",
    "dequantize",
    "dequantize_int2",
    "dequantize_int4",
    "exporting",
    "fake_quantize",
    "int8_linear",
    "int8_lstm",
    "is_exporting",
    "widen",
]
