"""One weight, rounded with compensation by the Hessian of its inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit_quantization.codecs import GROUP, Dtype
from toolkit_quantization.compensated.grids import Rounded, fitted, limits, nearest
from toolkit_quantization.compensated.solver import compensate, output_error


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
    return _better(rows, plain, start._replace(values=values), hessian)


def _better(rows: Tensor, plain: Rounded, other: Rounded, hessian: Tensor) -> Outcome:
    """Take each row of `other`, unless that of `plain` costs less."""
    before, after = (_errors(rows, each, hessian) for each in (plain, other))
    takes = (after < before).unsqueeze(1)
    values = torch.where(takes, other.values, plain.values)
    scale = torch.where(takes, other.scale, plain.scale)
    ratio = float(torch.minimum(before, after).sum() / before.sum())
    return Outcome(plain._replace(values=values, scale=scale), ratio)


def _errors(rows: Tensor, rounded: Rounded, hessian: Tensor) -> Tensor:
    shape = (len(hessian), -1)
    return output_error(rows.unflatten(0, shape), rounded.floats.unflatten(0, shape), hessian).flatten()
