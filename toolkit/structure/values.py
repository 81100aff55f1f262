"""What is known of a value inside the network: along which dimension it has which channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from toolkit.structure.units import Numbers


@dataclass(frozen=True)
class Channels:
    """Channels along one dimension of a tensor.

    Attributes:
        dim: the dimension, from 0.
        units: the unit of each index along it; a flattened channel repeats its unit.
        vanish: whether a channel is zero here once the weights that make it are zero. A sigmoid turns zeros into
            something else, which a later layer would miss.
    """

    dim: int
    units: Numbers
    vanish: bool = True

    def at(self, dim: int) -> Channels:
        """Return the same channels along another dimension."""
        return replace(self, dim=dim)

    def vanishing(self, vanish: bool) -> Channels:
        """Return the same channels, which vanish or do not."""
        return replace(self, vanish=vanish)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a tensor with channels, as `x.shape` returns them."""

    channels: Channels


@dataclass(frozen=True)
class Count:
    """A number of channels that the network reads from a tensor, as `x.size(1)` does."""

    channels: Channels


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer of the network that an operation uses directly."""

    path: str


class Operand(NamedTuple):
    """A value that an operation gets, and what is known of it."""

    value: Any
    known: Any

    @property
    def channels(self) -> Channels | None:
        """The channels of a tensor, None if it has none that could go."""
        return self.known if isinstance(self.known, Channels) else None


def channels_in(known: Any) -> list[Channels]:
    """Return all channels in what is known of a value, which may be nested."""
    if isinstance(known, Channels):
        return [known]
    if isinstance(known, (Sizes, Count)):
        return [known.channels]
    if isinstance(known, Operand):
        return channels_in(known.known)
    if isinstance(known, dict):
        known = list(known.values())
    if isinstance(known, (list, tuple)):
        return [channels for each in known for channels in channels_in(each)]
    return []


def repeated(units: Numbers, before: int, after: int) -> Numbers:
    """Return the units of a dimension that merges `before` values, the channels, and `after` values, in this order."""
    return np.tile(np.repeat(units, after), before)
