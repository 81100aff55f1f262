"""k-means of numbers, and the entropy of a clustered weight: tensors in, tensors out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Initialisation = Literal["linear", "density"]
MAX_ROUNDS = 200  # it ends when no number changes its cluster, usually after a few dozen


def initial_centroids(values: Tensor, count: int, initialisation: Initialisation = "linear") -> Tensor:
    """`count` centroids for values (n,), in ascending order.

    "linear" spaces them evenly from the smallest value to the largest, so that the few large weights, which matter,
    have centroids nearby (Han et al. 2016). "density" puts them at evenly spaced quantiles, where most values are.
    """
    if initialisation == "linear":
        steps = torch.linspace(0, 1, count, dtype=values.dtype, device=values.device)
        return torch.lerp(values.min(), values.max(), steps)
    places = (torch.arange(count, device=values.device) + 0.5) / count * (len(values) - 1)
    return values.sort().values[places.round().long()]


def kmeans(values: Tensor, count: int, initialisation: Initialisation = "linear") -> Tensor:
    """Return each value's cluster by Lloyd's algorithm, int64 (n,), 0 to `count` - 1; a cluster may be empty.

    Values (n,) may have any float dtype; clusters are numbered in ascending order of their means. No round increases
    the squared distance of the values to the means of their clusters. Lloyd, "Least squares quantization in PCM", 1982.
    """
    ordered, order = values.double().sort(stable=True)
    if len(ordered) == 0:
        return torch.zeros(0, dtype=torch.long, device=values.device)
    totals = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    centroids = initial_centroids(ordered, count, initialisation)
    ends = _ends(ordered, centroids)
    for _ in range(MAX_ROUNDS):
        centroids = _means(totals, ends, centroids)
        before, ends = ends, _ends(ordered, centroids)
        if torch.equal(before, ends):
            break
    clusters = torch.empty_like(order)
    sizes = ends.diff(prepend=ends.new_zeros(1))
    clusters[order] = torch.arange(count, device=values.device).repeat_interleave(sizes)
    return clusters


def _ends(ordered: Tensor, centroids: Tensor) -> Tensor:
    """Return the end of each cluster among the ordered values; clusters of numbers are intervals."""
    middles = (centroids[1:] + centroids[:-1]) / 2
    return torch.cat([torch.searchsorted(ordered, middles), torch.tensor([len(ordered)], device=ordered.device)])


def _means(totals: Tensor, ends: Tensor, centroids: Tensor) -> Tensor:
    sizes = ends.diff(prepend=ends.new_zeros(1))
    sums = totals[ends].diff(prepend=totals.new_zeros(1))
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)  # an empty cluster keeps its centroid


def cluster(weight: Tensor, count: int, initialisation: Initialisation = "linear") -> Tensor:
    """Return the cluster of each entry of a weight, int64 of its shape: 0 for zeros, 1 to `count` for all others.

    With at most `count` distinct values, each value is a cluster of its own.
    """
    flat = weight.flatten()
    kept = flat[flat != 0]
    values, own = kept.unique(return_inverse=True)
    clusters = torch.zeros(flat.shape, dtype=torch.long, device=weight.device)
    clusters[flat != 0] = 1 + (own if len(values) <= count else kmeans(kept, count, initialisation))
    return clusters.view(weight.shape)


def cluster_means(weight: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Return the mean of each cluster's nonzero entries, (count + 1,) of the weight's dtype; cluster 0 has mean 0.

    Computed in float64, so that the mean of equal numbers is that number.
    """
    flat, index = weight.flatten().double(), clusters.flatten().long()
    sums = flat.new_zeros(count + 1).index_add(0, index, flat)
    sizes = flat.new_zeros(count + 1).index_add(0, index, (flat != 0).double())
    means = (sums / sizes.clamp(min=1)).to(weight.dtype)
    return torch.cat([means.new_zeros(1), means[1:]])


def entropy_bytes(clusters: Tensor) -> float:
    """Return the fewest bytes that an entropy coder needs for the clusters of a weight (Shannon 1948)."""
    counts = clusters.flatten().bincount()
    counts = counts[counts > 0].double()
    return float((counts * (counts.sum() / counts).log2()).sum()) / 8
