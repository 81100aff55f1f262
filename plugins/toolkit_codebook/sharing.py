"""Weights that share a few values, as a parametrization: training moves the values, and entries keep their clusters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import masks, stored_as
from toolkit_codebook.clustering import cluster_means

MAX_FLOAT16 = torch.finfo(torch.float16).max


@stored_as("codebook.Shared")
class Shared(nn.Module):
    """Parametrization that replaces every entry by the mean of its cluster; cluster 0 is zero.

    A centroid is not a parameter but the mean of the tensor below, so that other techniques, masks and optimizers work
    on the tensor that they know. Its gradient is the sum of its entries' gradients, as in Han et al., "Deep
    Compression", 2016. Zeros that a later mask adds stay zero and enter no mean.
    """

    clusters: Tensor

    def __init__(self, clusters: Tensor, count: int, half: bool = False) -> None:
        """Hold clusters of the weight's shape, int from 0 to `count`; with `half`, round the values to float16."""
        super().__init__()
        self.assign(clusters, count, half)

    def assign(self, clusters: Tensor, count: int, half: bool) -> None:
        """Replace the clusters."""
        self.count, self.half_values = count, half
        dtype = torch.uint8 if count < 256 else torch.int32
        self.register_buffer("clusters", clusters.to(dtype))

    def forward(self, weight: Tensor) -> Tensor:
        means = _Centroids.apply(weight, self.clusters, self.count, self.half_values)
        shared: Tensor = means[self.clusters.long()]
        return shared.masked_fill(weight == 0, 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class _Centroids(torch.autograd.Function):
    """Means of clusters. Every entry gets the whole gradient of its centroid, not its share of the mean, and so moves
    as the centroid would if it were a parameter. Rounding to float16 passes the gradient through."""

    @staticmethod
    def forward(context: Any, weight: Tensor, clusters: Tensor, count: int, half: bool) -> Tensor:
        context.save_for_backward(clusters)
        means = cluster_means(weight, clusters, count)
        return means.clamp(-MAX_FLOAT16, MAX_FLOAT16).half().to(means.dtype) if half else means

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (clusters,) = context.saved_tensors
        (gradient,) = gradients
        gradient = torch.cat([gradient.new_zeros(1), gradient[1:]])
        return gradient[clusters.long()], None, None, None


def share(model: nn.Module, path: str, clusters: Tensor, count: int, half: bool = False) -> None:
    """Make the entries of the weight at `path` share the means of their clusters, in place of earlier clusters."""
    existing = shared(model, path)
    if existing is not None:
        existing.assign(clusters, count, half)
    else:
        masks.keep_in_shape(model, path, lambda: Shared(clusters, count, half))


def shared(model: nn.Module, path: str) -> Shared | None:
    """Return the parametrization that makes the weight at `path` share values, None without one."""
    prefix, _, attribute = path.rpartition(".")
    module = model.get_submodule(prefix)
    if not parametrize.is_parametrized(module, attribute):
        return None
    lists: Any = module.parametrizations
    return next((part for part in lists[attribute] if isinstance(part, Shared)), None)
