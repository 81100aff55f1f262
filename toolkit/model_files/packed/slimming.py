"""A model that takes fewer bytes where little is lost: norms of two numbers a channel, tensors rounded to float16."""

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

LARGEST_HALF = float(torch.finfo(torch.float16).max)


@torch.no_grad()
def slimmed(model: nn.Module, half: Sequence[str] = (), norms: bool = False) -> nn.Module:
    """A copy to be packed, in eval mode; it computes nearly the same, so it is the one to be measured.

    Args:
        model: with float32 tensors.
        half: names of tensors as patterns, such as `*bias` or `*`: rounded to float16. A tensor in which values are
            shared goes on sharing them.
        norms: a batch norm's mean and variance go into its scale and shift, and so does the bias of the layer before it
            in an `nn.Sequential`. The scale is not multiplied into that layer, whose entries would share no values
            any more.
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
    """Biases of layers that a batch norm follows are part of its mean."""
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
            if tensor.numel() and float(tensor.abs().max()) > LARGEST_HALF:
                raise InputError(f"'{name}' has values that float16 cannot hold")
            tensor.copy_(tensor.half())
