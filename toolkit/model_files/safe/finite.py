"""Tensors that no training leaves behind on purpose: not a number, or weights without bound."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """What is wrong with the first tensor that holds NaN, or as a parameter an infinity: "the tensor 'x' holds NaN".

    A buffer may be infinite, as masks of attention are.
    """
    for name, tensor in named:
        low, high = _extremes(tensor)
        if low != low or high != high:
            return f"the tensor '{name}' holds NaN"
        if isinstance(tensor, nn.Parameter) and (low == -torch.inf or high == torch.inf):
            return f"the weights '{name}' hold an infinity"
    return None


@torch.no_grad()
def _extremes(tensor: Tensor) -> tuple[float, float]:
    """Both are NaN if one element is; without a copy of the tensor, where its dtype can be compared."""
    values = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    if not values.is_floating_point() or values.numel() == 0 or values.is_meta or values.layout != torch.strided:
        return 0.0, 0.0
    low, high = (values.float() if values.itemsize == 1 else values).aminmax()
    return low.item(), high.item()
