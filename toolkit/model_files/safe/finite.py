"""Tensors that no training leaves behind on purpose: NaN, and weights that are infinite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MAX_STORED = torch.finfo(torch.float32).max / 128  # the scale of int8 values that float32 can hold


def not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return what is wrong with the first bad tensor, as in "the tensor 'x' contains NaN"; None if all are fine.

    NaN is wrong anywhere, an infinity only in a parameter: attention masks are buffers that may be infinite.
    """
    for name, tensor in named:
        low, high = _extremes(tensor)
        if low != low or high != high:
            return f"the tensor '{name}' contains NaN"
        if isinstance(tensor, nn.Parameter) and (low == -torch.inf or high == torch.inf):
            return f"the weights '{name}' contain an infinity"
    return None


def too_large(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return what is wrong with the first buffer that is too large for a stored weight; None if all are fine.

    Layers that replace others keep weights in buffers, as integers with scales. Decoded weights must be finite too.
    """
    for name, tensor in named:
        size = max(abs(value) for value in _extremes(tensor))
        if size > MAX_STORED:
            return f"the stored weights '{name}' contain {'an infinity' if size == torch.inf else f'{size:.3g}'}"
    return None


@torch.no_grad()
def _extremes(tensor: Tensor) -> tuple[float, float]:
    """Return the smallest and largest element, NaN if any is; copy the tensor only if its dtype has no order."""
    values = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    if not values.is_floating_point() or values.numel() == 0 or values.is_meta or values.layout != torch.strided:
        return 0.0, 0.0
    low, high = (values.float() if values.itemsize == 1 else values).aminmax()
    return low.item(), high.item()
