"""Rounding that distributes the error of each weight over those that are not rounded yet, as pure functions.

Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained transformers", 2023. Tensors have
a leading dimension for groups of rows with a Hessian each: one for a linear layer, several for a grouped convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128  # columns after whose rounding the rest of the weight is updated
DAMPING = 0.01  # of the mean of the diagonal
MAX_DAMPING = 1e6


def compensate(rows: Tensor, hessian: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Round rows to integers times `scale` so that the outputs of the layer change little.

    The inputs are rounded in the order of their size, the largest first. Zeros stay zeros.

    Args:
        rows: the weights, (groups, rows, inputs).
        hessian: of the squared error of the outputs, (groups, inputs, inputs).
        scale: the distance of two neighboring values, in the shape of the rows.
        low: the smallest integer, in the shape of the rows.
        high: the largest one, in the shape of the rows.

    Returns:
        The integers, float64 in the shape of the rows.
    """
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    columns = order.unsqueeze(1).expand_as(rows)
    sorted_hessian = hessian.gather(1, order.unsqueeze(2).expand_as(hessian))
    sorted_hessian = sorted_hessian.gather(2, order.unsqueeze(1).expand_as(hessian))
    pruned = rows == 0
    low, high = low.double().masked_fill(pruned, 0), high.double().masked_fill(pruned, 0)
    weights, steps, least, most = (part.double().gather(2, columns) for part in (rows, scale, low, high))
    values = _in_order(weights, steps, least, most, inverse_factor(sorted_hessian))
    return torch.empty_like(values).scatter_(2, columns, values)


def _in_order(weights: Tensor, scale: Tensor, low: Tensor, high: Tensor, factor: Tensor) -> Tensor:
    values, size = torch.empty_like(weights), weights.shape[2]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = torch.empty_like(weights[:, :, start:stop])
        for place in range(start, stop):
            weight, step = weights[:, :, place], scale[:, :, place]
            value = (weight / step).round_().clamp_(low[:, :, place], high[:, :, place])
            error = (weight - value * step) / factor[:, place, place, None]
            weights[:, :, place + 1 : stop] -= error.unsqueeze(2) * factor[:, place, None, place + 1 : stop]
            values[:, :, place], errors[:, :, place - start] = value, error
        weights[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return values


def inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper triangular U with `U.T @ U` the inverse of the damped Hessian, (groups, inputs, inputs)."""
    damping = DAMPING
    while damping < MAX_DAMPING:
        # An upper triangle R with R @ R.T the Hessian: Cholesky's, of the inputs in reverse order.
        lower, failed = torch.linalg.cholesky_ex(damped(hessian, damping).flip(1, 2))
        if not failed.any():
            upper = lower.flip(1, 2)
            identity = torch.eye(hessian.shape[1], dtype=hessian.dtype, device=hessian.device).expand_as(hessian)
            return torch.linalg.solve_triangular(upper, identity, upper=True)
        damping *= 10
    raise ValueError("the Hessian must be finite and positive semidefinite")


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Return the Hessian plus a share of its mean diagonal, or all of that mean for an input that is always zero."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(dim=1, keepdim=True)
    mean = torch.where(mean > 0, mean, 1.0)
    return hessian + torch.diag_embed(torch.where(diagonal > 0, damping * mean, mean.expand_as(diagonal)))


def output_error(rows: Tensor, rounded: Tensor, hessian: Tensor) -> Tensor:
    """Return the mean squared change of each output, (groups, rows)."""
    change = (rounded - rows).double()
    return (change @ hessian * change).sum(dim=2)
