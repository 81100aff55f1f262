"""One weight, rounded with compensation by the Hessian of its inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit_quantization.codecs import GROUP, Dtype
from toolkit_quantization.compensated.grids import Rounded, fitted, limits, nearest
from toolkit_quantization.compensated.refinement import descend, fitted_scale
from toolkit_quantization.compensated.solver import compensate, output_error

ROUNDS = 2  # of scales that are fitted to the integers, and integers that are rounded anew
PASSES = 2  # over the inputs in each round; more of either gain next to nothing


class Outcome(NamedTuple):
    """A rounded weight, and the squared error of its outputs relative to that of nearest rounding, NaN without any."""

    rounded: Rounded
    ratio: float


def round_weight(
    rows: Tensor, hessian: Tensor, dtype: Dtype, overflow_safe: bool = False, group: int = GROUP
) -> Outcome:
    """Round a weight to integers; no row costs more than with nearest rounding.

    Args:
        rows: the weight, (rows, inputs). Each group of the Hessian belongs to as many successive rows.
        hessian: of the squared error of the outputs, (groups, inputs, inputs).
        dtype: of the integers.
        overflow_safe: whether int8 must be exact on x86 without VNNI.
        group: the inputs that share a scale in int4 and int2, or 0 for all of a row.
    """
    plain = nearest(rows, dtype, overflow_safe, group)
    low, high = limits(plain, overflow_safe)
    groups = len(hessian)
    importance = hessian.diagonal(dim1=1, dim2=2).repeat_interleave(len(rows) // groups, dim=0)
    start = fitted(rows, plain, importance) if dtype != "int8" else plain
    parts = [part.unflatten(0, (groups, -1)) for part in (rows.double(), start.steps.double(), low, high)]
    values = compensate(parts[0], hessian, *parts[1:]).flatten(0, 1).to(plain.values.dtype)
    best = _better(rows, plain, start._replace(values=values), hessian)
    if dtype != "int8":
        best = _refined(rows, best, hessian, low, high)
    before = _errors(rows, plain, hessian).sum()
    return Outcome(best, float(_errors(rows, best, hessian).sum() / before))


def _refined(rows: Tensor, rounded: Rounded, hessian: Tensor, low: Tensor, high: Tensor) -> Rounded:
    """Round each input anew and fit the scales, in turn; no row costs more afterwards."""
    pruned = rows == 0
    low, high = low.masked_fill(pruned, 0), high.masked_fill(pruned, 0)
    best = _rounded_anew(rows, rounded, hessian, low, high)
    for _ in range(ROUNDS):
        weights, values, scale = (_grouped(part.double(), hessian) for part in (rows, best.values, best.scale))
        scale = fitted_scale(weights, values, hessian, scale, group=best.group).flatten(0, 1)
        other = best._replace(scale=scale.to(best.scale.dtype))
        best = _better(rows, best, _rounded_anew(rows, other, hessian, low, high), hessian)
    return best


def _rounded_anew(rows: Tensor, rounded: Rounded, hessian: Tensor, low: Tensor, high: Tensor) -> Rounded:
    weights, values, steps = (_grouped(part.double(), hessian) for part in (rows, rounded.values, rounded.steps))
    least, most = _grouped(low, hessian), _grouped(high, hessian)
    values = descend(weights, values, hessian, steps, least, most, passes=PASSES).flatten(0, 1)
    return rounded._replace(values=values.to(rounded.values.dtype))


def _grouped(rows: Tensor, hessian: Tensor) -> Tensor:
    return rows.unflatten(0, (len(hessian), -1))


def _better(rows: Tensor, plain: Rounded, other: Rounded, hessian: Tensor) -> Rounded:
    """Take each row of `other`, unless that of `plain` costs less."""
    before, after = (_errors(rows, each, hessian) for each in (plain, other))
    takes = (after < before).unsqueeze(1)
    values = torch.where(takes, other.values, plain.values)
    return plain._replace(values=values, scale=torch.where(takes, other.scale, plain.scale))


def _errors(rows: Tensor, rounded: Rounded, hessian: Tensor) -> Tensor:
    return output_error(_grouped(rows, hessian), _grouped(rounded.floats, hessian), hessian).flatten()
