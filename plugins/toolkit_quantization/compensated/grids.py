"""Rows of integers and their scales: what nearest rounding gives, and within which limits they can be others."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.rounding import dequantize_groups, pack_groups, quantize_groups
from toolkit_quantization.codecs import BITS, GROUP, Dtype
from toolkit_quantization.int8 import quantize_per_channel
from toolkit_quantization.kernels import INT8_MAX
from toolkit_quantization.static.weights import SAFE_MAX, quantize_without_overflow

SHARES = tuple(1 - 0.05 * step for step in range(11))  # of the scale of nearest rounding, to choose from


class Rounded(NamedTuple):
    """Integers (rows, inputs) of so many bits, and the scale (rows, groups) of each `group` of inputs."""

    values: Tensor
    scale: Tensor
    group: int
    bits: int = 8

    @property
    def half(self) -> int:
        """Half of the integers that there are: the largest absolute one."""
        return int(2 ** (self.bits - 1))

    @property
    def steps(self) -> Tensor:
        """The scale of each integer, (rows, inputs) float32."""
        return self.scale.float().repeat_interleave(self.group, dim=1)[:, : self.values.shape[1]]

    @property
    def floats(self) -> Tensor:
        """The weights that the integers stand for, (rows, inputs) float32."""
        return self.values.float() * self.steps

    @property
    def stored(self) -> tuple[Tensor, Tensor]:
        """The integers and the scale as the codec holds them."""
        if self.bits == 8:
            return self.values, self.scale.squeeze(1)
        return pack_groups(_grouped(self.values, self.group), self.bits), self.scale


def nearest(rows: Tensor, dtype: Dtype, overflow_safe: bool, group: int = GROUP) -> Rounded:
    """Round rows (N, K) to the nearest integers of a dtype, as a layer is stored without compensation."""
    if dtype == "int8":
        values, scale = (quantize_without_overflow if overflow_safe else quantize_per_channel)(rows)
        return Rounded(values, scale.unsqueeze(1), rows.shape[1])
    packed, scale = quantize_groups(rows, group, BITS[dtype])
    values = dequantize_groups(packed, torch.ones_like(scale), rows.shape[1], BITS[dtype])
    group = packed.shape[2] * 8 // BITS[dtype]
    return Rounded(values, scale, group, BITS[dtype])


def limits(rounded: Rounded, overflow_safe: bool) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest integer that each weight can become, both (rows, inputs)."""
    values = rounded.values.double()
    if rounded.bits < 8:
        return torch.full_like(values, -rounded.half), torch.full_like(values, rounded.half - 1)
    if not overflow_safe:
        return torch.full_like(values, -INT8_MAX), torch.full_like(values, INT8_MAX)
    return -_safe_limit(-values), _safe_limit(values)


def _safe_limit(values: Tensor) -> Tensor:
    """Let the largest integer of a row stay as large as it is; any two then add up to at most 128."""
    largest, place = values.max(dim=1, keepdim=True)
    largest = largest.clamp(min=SAFE_MAX)
    return (2 * SAFE_MAX - largest).expand_as(values).scatter(1, place, largest)


def fitted(rows: Tensor, rounded: Rounded, importance: Tensor) -> Rounded:
    """Return int4 or int2 with the scale for each group, of some below the one that it has, that costs the least.

    Args:
        rows: the weights (N, K) that were rounded.
        rounded: its integers are rounded anew.
        importance: what the squared error of each weight counts, (N, K).
    """
    groups, counts = (_grouped(each.float(), rounded.group) for each in (rows, importance))
    best, least = rounded.scale, torch.full(rounded.scale.shape, torch.inf, device=rows.device)
    for share in SHARES:
        scale = (rounded.scale.float() * share).to(rounded.scale.dtype)
        steps = scale.float().unsqueeze(2)
        values = (groups / steps).round_().clamp_(-rounded.half, rounded.half - 1)
        cost = ((values * steps - groups).square_() * counts).sum(dim=2)
        best, least = torch.where(cost < least, scale, best), torch.minimum(cost, least)
    return rounded._replace(scale=best)


def _grouped(rows: Tensor, group: int) -> Tensor:
    """Rows (N, K) in groups, (N, groups, group), with zeros at the end of the last one."""
    return F.pad(rows, (0, -rows.shape[1] % group)).unflatten(1, (-1, group))
