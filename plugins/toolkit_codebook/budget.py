"""Chooses the bits of each weight, so that all weights together fit into a budget of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from toolkit import TechniqueError
from toolkit_codebook.clustering import Initialisation, cluster, cluster_means, entropy_bytes

CENTROID_BYTES = 4  # of float32; in float16 there is a little room left


class Cost(NamedTuple):
    """The size of a weight at a number of bits, and its squared error relative to its squares."""

    size_bytes: float
    error: float


def cost(weight: Tensor, bits: int, initialisation: Initialisation) -> Cost:
    """Return a weight's cost: the entropy of its clusters plus a table in float32, and its relative squared error."""
    clusters = cluster(weight, 2**bits, initialisation)
    shared = cluster_means(weight, clusters, 2**bits)[clusters]
    used = len(clusters[clusters > 0].unique())
    squares = float(weight.double().square().sum())
    error = float((weight - shared).double().square().sum()) / squares if squares else 0.0
    return Cost(entropy_bytes(clusters) + used * CENTROID_BYTES, error)


def choose_bits(
    weights: Mapping[str, Tensor], most: Mapping[str, int], budget_bytes: int, initialisation: Initialisation
) -> dict[str, int]:
    """Return the bits of each weight, from 1 to its entry in `most`, added greedily where a byte lowers the error most.

    Raises:
        TechniqueError: even one bit per weight exceeds the budget.
    """
    costs = {
        path: [cost(weight, bits, initialisation) for bits in range(1, most[path] + 1)]
        for path, weight in weights.items()
    }
    chosen = dict.fromkeys(weights, 1)
    spent = sum(costs[path][0].size_bytes for path in weights)
    if spent > budget_bytes:
        raise TechniqueError(
            f"budget_bytes is {budget_bytes}, but one bit per weight already takes {spent:.0f}: "
            "prune more in an earlier stage, or raise budget_bytes"
        )
    while True:
        steps = {path: _step(costs[path], bits) for path, bits in chosen.items() if bits < most[path]}
        fitting = {path: step for path, step in steps.items() if spent + step.size_bytes <= budget_bytes}
        if not fitting:
            return chosen
        best = max(fitting, key=lambda path: fitting[path].error / max(1.0, fitting[path].size_bytes))
        spent += fitting[best].size_bytes
        chosen[best] += 1


def _step(costs: list[Cost], bits: int) -> Cost:
    """Return what one more bit costs, and the error that it saves."""
    before, after = costs[bits - 1], costs[bits]
    return Cost(after.size_bytes - before.size_bytes, before.error - after.error)
