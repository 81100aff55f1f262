"""Where the channels of a tensor are after its dimensions have been merged, split or moved."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from operator import mul

from toolkit.structure.values import Channels, repeated


def reshaped(channels: Channels, before: Sequence[int], after: Sequence[int]) -> Channels | None:
    """Return the channels after `reshape`, alone or merged with neighbors; None if they are split or merge samples.

    A flattened dimension has each channel as often as there are values of it.
    """
    start = prod(before[: channels.dim])  # as many values are in front of the channels' dimension
    count = before[channels.dim]
    ends = list(accumulate(after, mul, initial=1))
    for dim, size in enumerate(after):
        block_start = ends[dim]
        if size < count or start % block_start:
            continue
        merged_before = start // block_start
        if size % (merged_before * count) == 0:
            first = _first_merged(before, channels.dim, merged_before)
            if merged_before > 1 and first == 0:
                return None
            if merged_before == 1 and channels.dim == 0:
                return None
            units = repeated(channels.units, merged_before, size // (merged_before * count))
            return Channels(dim, units, channels.vanish)
    return None


def _first_merged(before: Sequence[int], dim: int, merged: int) -> int:
    """Return the first dimension in front of `dim` that is merged with it."""
    while merged > 1 and dim > 0:
        dim -= 1
        merged //= before[dim]
    return dim


def permuted(channels: Channels, order: Sequence[int]) -> Channels:
    """Return the channels after `permute`."""
    dims = [dim % len(order) for dim in order]
    return channels.at(dims.index(channels.dim))


def transposed(channels: Channels, dims: int, one: int, other: int) -> Channels:
    """Return the channels after two of the dimensions are swapped."""
    order = list(range(dims))
    order[one % dims], order[other % dims] = order[other % dims], order[one % dims]
    return permuted(channels, order)
