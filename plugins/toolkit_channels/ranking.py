"""Which units go: from scores, a share and the limits of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

import toolkit
from toolkit.structure import Group, Structure
from toolkit_channels.params import Params


class Before(NamedTuple):
    """The network before anything went: what `amount` is a share of, and the channels of each layer."""

    cost: float
    widths: Mapping[str, int]


def choose(
    structure: Structure, scores: Mapping[int, float], params: Params, amount: float, before: Before
) -> set[int]:
    """Return the fewest of the lowest-ranked units with which the share `amount` of `before` is gone.

    Args:
        structure: the network as it is.
        scores: by unit; the smallest go first.
        params: what is counted, the scope, and the limits of each layer.
        amount: share that goes.
        before: the network that `amount`, and the limits of each layer, are shares of.

    Raises:
        TechniqueError: the limits of the layers do not allow it.
    """
    ranked = [sorted(group.units, key=lambda unit: (scores[unit], unit)) for group in structure.groups]
    order = _order(ranked, scores, params)

    def removed(level: int) -> set[int]:
        counts = [0] * len(ranked)
        for number in order[:level]:
            counts[number] += 1
        limited = [
            _limited(group, count, before.widths[group.name], params)
            for group, count in zip(structure.groups, counts, strict=True)
        ]
        return {unit for units, count in zip(ranked, limited, strict=True) for unit in units[:count]}

    def gone(level: int) -> float:
        return 1 - structure.cost(params.of, removed(level)) / before.cost

    low, high = 0, len(order)
    if gone(high) < amount:
        raise toolkit.TechniqueError(_too_much(amount, gone(high), params))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if gone(middle) >= amount else (middle + 1, high)
    return removed(high)


def _order(ranked: Sequence[Sequence[int]], scores: Mapping[int, float], params: Params) -> list[int]:
    """Return the number of a group for each unit, in the order in which they go."""
    if params.scope == "layer":
        keyed = [
            ((place + 1) / len(units), number) for number, units in enumerate(ranked) for place in range(len(units))
        ]
    else:
        keyed = [(scores[unit], number) for number, units in enumerate(ranked) for unit in units]
    return [number for _, number in sorted(keyed)]


def _limited(group: Group, count: int, width: int, params: Params) -> int:
    """Return how many units may go if the ranking says `count`, of a layer that once had `width` channels."""
    total = len(group.units)
    fewest = max(1, ceil(params.floor * width))
    step = params.round_to if width >= 2 * params.round_to else 1
    for kept in range(total - count, total):
        channels = group.staying + kept * group.width
        if channels >= fewest and channels % step == 0:
            return total - kept
    return 0


def _too_much(amount: float, most: float, params: Params) -> str:
    return (
        f"amount = {amount:g} of the {params.of} cannot go, at most {most:.3f} can with floor = {params.floor:g} and "
        f"round_to = {params.round_to}; lower amount, floor or round_to, or exclude fewer layers"
    )
