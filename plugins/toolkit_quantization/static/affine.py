"""Unsigned bytes with a zero point for activations, one scale a tensor: `value ≈ (byte - zero point) * scale`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

UINT8_MAX = 255
MIN_SCALE = torch.finfo(torch.float32).tiny  # a subnormal scale would be too coarse


class Affine(NamedTuple):
    """The scale, float32 (), and the zero point, uint8 (), of a tensor."""

    scale: Tensor
    zero_point: Tensor


def affine(low: Tensor, high: Tensor) -> Affine:
    """Return scale and zero point for values from `low` to `high`, both (); zero becomes exactly the zero point.

    The range is widened to contain zero: Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", 2018.
    """
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = ((high - low) / UINT8_MAX).clamp(min=MIN_SCALE)
    return Affine(scale, (-low / scale).round().clamp(0, UINT8_MAX).to(torch.uint8))


def fake_quantize(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the values that the bytes nearest to `values` stand for: the same shape and dtype.

    The gradient of a value within the range is that of the identity, outside it is zero. The gradient of the scale is
    that of Esser et al., "Learned step size quantization", 2020, before its normalization.
    """
    zero = zero_point.to(values.dtype)
    steps = values / scale
    if not steps.requires_grad:
        return steps.clamp_(-zero, UINT8_MAX - zero).round_().mul_(scale)
    rounded: Tensor = RoundStraightThrough.apply(steps.clamp(-zero, UINT8_MAX - zero))
    return rounded * scale


class RoundStraightThrough(torch.autograd.Function):
    """Rounding to integers whose gradient is that of the identity."""

    @staticmethod
    def forward(_: Any, steps: Tensor) -> Tensor:
        return steps.round()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
