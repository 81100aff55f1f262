"""Scales of channels between two layers, as pure functions.

What gives the channels is divided by factors, and what takes them is multiplied by the same factors. A function with
`f(s · x) = s · f(x)` for positive s may lie between both, so that the network computes what it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

STRENGTH = 0.5  # how much of the range of activations moves to the weights: alpha of Xiao et al.
MAX_SWEEPS = 100
TOLERANCE = 1e-4  # of a factor, below which sweeps end


class Inputs(NamedTuple):
    """A weight whose inputs are channels, by its path, and in how many groups of rows it takes them."""

    path: str
    groups: int = 1


class Between(NamedTuple):
    """Two sides of some channels: the path of the weight whose rows give them, and the weights that take them."""

    rows: str
    inputs: tuple[Inputs, ...]


def by_channel(weight: Tensor, channels: int, groups: int = 1) -> Tensor:
    """Return a weight as (groups, rows of a group, channels of a group, values for each channel).

    The last dimension holds the window of a convolution, or the values that a channel became when it was flattened.
    """
    return weight.reshape(groups, len(weight) // groups, channels // groups, -1)


def input_ranges(weight: Tensor, channels: int, groups: int = 1) -> Tensor:
    """Return the largest absolute weight of each input channel, (channels,)."""
    return by_channel(weight, channels, groups).abs().amax(dim=(1, 3)).flatten()


def times_inputs(weight: Tensor, factors: Tensor, groups: int = 1) -> Tensor:
    """Return a weight whose input channels are multiplied by factors (channels,)."""
    parts = by_channel(weight, len(factors), groups)
    return (parts * factors.to(weight.dtype).view(groups, 1, -1, 1)).view(weight.shape)


def over_rows(tensor: Tensor, factors: Tensor) -> Tensor:
    """Return a weight (channels, …), or a bias (channels,), whose rows are divided by factors (channels,)."""
    return tensor / factors.to(tensor.dtype).view(-1, *[1] * (tensor.dim() - 1))


def cross_layer(rows: Tensor, inputs: Tensor) -> Tensor:
    """Return the factors (channels,) that make the ranges of rows and inputs equal, both (channels,).

    They are `sqrt(rows · inputs) / inputs`: Nagel et al., "Data-free quantization through weight equalization and bias
    correction", 2019. A channel that has no weights on one side keeps its scale.
    """
    return torch.where((rows > 0) & (inputs > 0), (rows / inputs).sqrt(), 1.0)


def smoothing(activations: Tensor, inputs: Tensor, strength: float = STRENGTH) -> Tensor:
    """Return the factors (channels,) that move outliers of the activations into the weights that take them.

    They are `activations ** strength / inputs ** (1 - strength)` with the largest absolute values of both, (channels,):
    Xiao et al., "SmoothQuant: Accurate and efficient post-training quantization for large language models", 2023. A
    channel without values or without weights keeps its scale.
    """
    factors = activations**strength / inputs ** (1 - strength)
    return torch.where((activations > 0) & (inputs > 0), factors, 1.0)


def settled(weights: Mapping[str, Tensor], pairs: Sequence[Between]) -> list[Tensor]:
    """Return the factors (channels,) of each pair for which the ranges on both sides of all pairs are equal.

    Pair after pair is equalized until nothing changes, because a weight can be a side of two pairs. The weights, by
    path, stay as they are.
    """
    weights = {path: weight.detach().float() for path, weight in weights.items()}
    totals = [torch.ones(len(weights[pair.rows]), device=weights[pair.rows].device) for pair in pairs]
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for pair, total in zip(pairs, totals, strict=True):
            factors = _equalize(weights, pair)
            total.mul_(factors)
            largest = max(largest, float(factors.log().abs().max()))
        if largest < TOLERANCE:
            break
    return totals


def _equalize(weights: dict[str, Tensor], pair: Between) -> Tensor:
    rows = weights[pair.rows]
    factors = cross_layer(rows.flatten(1).abs().amax(dim=1), largest_inputs(weights, pair))
    weights[pair.rows] = over_rows(rows, factors)
    for path, groups in pair.inputs:
        weights[path] = times_inputs(weights[path], factors, groups)
    return factors


def largest_inputs(weights: Mapping[str, Tensor], pair: Between) -> Tensor:
    """Return the largest absolute weight of each channel (channels,) over all weights that take it."""
    channels = len(weights[pair.rows])
    ranges = [input_ranges(weights[path], channels, groups) for path, groups in pair.inputs]
    return torch.stack(ranges).amax(dim=0)
