"""Fewer bytes at a small loss: two numbers per channel for a batch norm, tensors rounded to float16."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from toolkit.errors import InputError
from toolkit.masks import folded
from toolkit.patterns import match, unmatched

MAX_HALF = float(torch.finfo(torch.float16).max)


@torch.no_grad()
def slimmed(model: nn.Module, half: Sequence[str] = (), norms: bool = False) -> nn.Module:
    """Return a smaller copy to be packed, in eval mode. Measure the copy, because its outputs differ slightly.

    Args:
        model: with float32 tensors.
        half: patterns for the names of the tensors to round to float16, such as `*bias` or `*`. Entries that share a
            value still share one afterwards.
        norms: whether to fold the mean and variance of each batch norm into its scale and shift, and with them the bias
            of the layer before it in an `nn.Sequential`. The scale is not multiplied into that layer, because its
            entries would no longer share values.
    """
    plain = folded(model).eval()
    if norms:
        for parent in plain.modules():
            if isinstance(parent, nn.Sequential):
                _move_biases(parent)
        for module in plain.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                _reduce(module)
    _round([*plain.named_parameters(), *plain.named_buffers()], half)
    return plain


def _move_biases(sequence: nn.Sequential) -> None:
    """Subtract the bias of each layer from the mean of the batch norm that follows it."""
    for before, after in pairwise(sequence):
        bias: Any = getattr(before, "bias", None)
        is_layer = isinstance(before, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        if is_layer and bias is not None and isinstance(after, _BatchNorm) and after.running_mean is not None:
            after.running_mean.sub_(bias)
            bias.zero_()


def _reduce(norm: _BatchNorm) -> None:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None or not norm.affine:
        return
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    norm.bias.copy_(norm.bias.double() - mean.double() * scale)
    norm.weight.copy_(scale)
    mean.zero_()
    variance.fill_(1 - norm.eps)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.zero_()


def _round(tensors: Sequence[tuple[str, Tensor]], patterns: Sequence[str]) -> None:
    if problem := unmatched([name for name, _ in tensors], patterns, what="tensor"):
        raise InputError(problem)
    for name, tensor in tensors:
        if tensor.dtype == torch.float32 and match([name], patterns):
            if tensor.numel() and float(tensor.abs().max()) > MAX_HALF:
                raise InputError(f"'{name}' has values that float16 cannot hold")
            tensor.copy_(tensor.half())
