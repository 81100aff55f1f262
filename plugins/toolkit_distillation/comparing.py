"""Losses between the features of a student and those of its teacher: tensors in, a scalar out.

Features are (N, C), or (N, C, …) with positions after the channels; both are float32 and of the same samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The memory for the angles between all triples of samples grows with the cube of their number.
MAX_GROUP = 64
POOLING: dict[int, Any] = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}


def fitnets_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference: Romero et al., "FitNets: hints for thin deep nets", 2015, equation 3.

    Args:
        projected: the student's features, projected to the teacher's number of channels: (N, C, …).
        teacher: (N, C, …); if the numbers of positions differ, both are averaged to the smaller one.
    """
    return F.mse_loss(*with_equal_positions(projected, teacher))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance between the attention maps: a sum over positions, averaged over the samples, 0 to 4.

    Zagoruyko and Komodakis, "Paying more attention to attention", 2017: a map is the sum of squared activations over
    the channels, scaled to norm 1. Their code takes the mean over P positions and a weight of β / 2: use
    a weight of β / (2 · P) here.

    Args:
        student: (N, C, …), with at least one dimension of positions.
        teacher: (N, D, …); if the numbers of positions differ, both maps are averaged to the smaller one.
    """
    maps = with_equal_positions(*(features.square().mean(dim=1, keepdim=True) for features in (student, teacher)))
    of_student, of_teacher = (F.normalize(each.flatten(1), dim=1) for each in maps)
    return (of_student - of_teacher).square().sum(dim=1).mean()


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how differently the two arrange the samples: a loss on distances plus twice one on angles.

    Park et al., "Relational knowledge distillation", 2019: Huber losses on the distances of all pairs, in units of
    their mean, and on the cosines at the second sample of all triples, in the paper's proportion of 1 to 2. Batches are
    split into groups of at most 64 samples. Shapes need not agree.

    Args:
        student: (N, …), flattened.
        teacher: (N, …), flattened.
    """
    groups = zip(student.flatten(1).split(MAX_GROUP), teacher.flatten(1).split(MAX_GROUP), strict=True)
    losses = [len(one) * _of_group(one, other) for one, other in groups]
    return torch.stack(losses).sum() / len(student)


def with_equal_positions(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both averaged to the smaller number of positions, in each dimension after the channels."""
    size = [min(sizes) for sizes in zip(one.shape[2:], other.shape[2:], strict=True)]
    pooled = [each if list(each.shape[2:]) == size else POOLING[each.dim()](each, size) for each in (one, other)]
    return pooled[0], pooled[1]


def _of_group(student: Tensor, teacher: Tensor) -> Tensor:
    (distances, cosines), (wanted_distances, wanted_cosines) = _relations(student), _relations(teacher)
    return F.smooth_l1_loss(distances, wanted_distances) + 2 * F.smooth_l1_loss(cosines, wanted_cosines)


def _relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (N, N) in units of their mean, and the cosine at j between i and k as [j, i, k].

    Computed from the inner products (N, N), because the differences (N, N, D) of wide features would not fit.
    """
    centered = features - features.mean(dim=0)  # changes no relation, but avoids cancellation
    products = centered @ centered.T
    norms = products.diagonal()
    squared = norms[:, None] + norms - 2 * products
    apart = squared > 1e-6 * norms.mean()  # false for a sample and itself, or a duplicate
    distances = torch.where(apart, squared, 1.0).sqrt()  # at distance 0 the gradient would be infinite
    # (x_i − x_j) · (x_k − x_j), and for each j the lengths of both.
    inner = products[None] - products[:, :, None] - products[:, None, :] + norms[:, None, None]
    cosines = inner / (distances[:, :, None] * distances[:, None, :])
    distances = distances * apart
    mean = distances.sum() / apart.sum().clamp_min(1)
    return distances / mean.clamp_min(1e-12), cosines * (apart[:, :, None] & apart[:, None, :])
