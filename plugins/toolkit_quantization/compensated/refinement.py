"""Rounded weights made better one at a time, and scales that fit the integers, as pure functions.

Both lower the squared error of the outputs for the integers, or the scales, that stay as they are. Tensors have the
shapes that `solver` describes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit_quantization.compensated.solver import BLOCK

PULL = 1e-3  # towards the scale before, relative to the mean diagonal of the equations


def descend(
    rows: Tensor, values: Tensor, hessian: Tensor, scale: Tensor, low: Tensor, high: Tensor, *, passes: int
) -> Tensor:
    """Round each input anew while all others stay, in turn; the error of no row becomes larger.

    Args:
        rows: the weights, (groups, rows, inputs) float64.
        values: the integers so far, in the shape of the rows.
        hessian: of the squared error of the outputs, (groups, inputs, inputs).
        scale: the distance of two neighboring values, in the shape of the rows.
        low: the smallest integer, in the shape of the rows.
        high: the largest one, in the shape of the rows.
        passes: how often, at most; it ends where nothing changes.

    Returns:
        The integers, float64 in the shape of the rows.
    """
    values = values.clone()
    slope = (values * scale - rows) @ hessian
    for _ in range(passes):
        before = values.clone()
        for start in range(0, rows.shape[2], BLOCK):
            block = slice(start, start + BLOCK)
            parts = (each[:, :, block] for each in (values, slope, scale, low, high))
            changes = _descend_block(*parts, hessian=hessian[:, block, block])
            slope += changes @ hessian[:, block]
        if torch.equal(before, values):
            break
    return values


def _descend_block(
    values: Tensor, slope: Tensor, scale: Tensor, low: Tensor, high: Tensor, *, hessian: Tensor
) -> Tensor:
    """Change the values of a block of inputs, and return by how much their weights change."""
    slope, changes = slope.clone(), torch.zeros_like(values)
    for place in range(values.shape[2]):
        curvature = hessian[:, place, place, None] * scale[:, :, place]
        wanted = values[:, :, place] - torch.where(curvature != 0, slope[:, :, place] / curvature, 0.0)
        value = torch.maximum(torch.minimum(wanted.round_(), high[:, :, place]), low[:, :, place])
        change = (value - values[:, :, place]) * scale[:, :, place]
        slope += change.unsqueeze(2) * hessian[:, place].unsqueeze(1)
        values[:, :, place], changes[:, :, place] = value, change
    return changes


def fitted_scale(rows: Tensor, values: Tensor, hessian: Tensor, scale: Tensor, *, group: int) -> Tensor:
    """Return the scales with the least error of the outputs for these integers, (groups, rows, scales) float64.

    Args:
        rows: the weights, (groups, rows, inputs) float64.
        values: the integers, in the shape of the rows.
        hessian: of the squared error of the outputs, (groups, inputs, inputs).
        scale: those so far, (groups, rows, scales), which decide where the integers do not.
        group: how many successive inputs share a scale.
    """
    starts = range(0, rows.shape[2], group)
    equations = torch.stack([_summed(_products(values, hessian, start, group) * values, group) for start in starts], 2)
    wanted = _summed(rows @ hessian * values, group)
    pull = PULL * equations.diagonal(dim1=2, dim2=3).mean(2, keepdim=True)
    pull = torch.where(pull > 0, pull, 1.0).expand_as(scale)
    return torch.linalg.solve(equations + torch.diag_embed(pull), wanted + pull * scale)


def _products(values: Tensor, hessian: Tensor, start: int, group: int) -> Tensor:
    return values[:, :, start : start + group] @ hessian[:, start : start + group]


def _summed(inputs: Tensor, group: int) -> Tensor:
    """The sums over the inputs that share a scale, of (groups, rows, inputs)."""
    return torch.stack([part.sum(2) for part in inputs.split(group, dim=2)], dim=2)
