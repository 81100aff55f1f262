"""How far the features of a student are from those of its teacher: tensors in, a scalar out.

Features are (N, C) or (N, C, …) with positions behind the channels; both float32, of the same samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Angles between all triples of samples take memory as the cube of their number.
LARGEST_GROUP = 64
POOLING: dict[int, Any] = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}


def fitnets_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference: Romero et al., "FitNets: hints for thin deep nets", 2015, equation 3.

    Args:
        projected: the student's features, brought to the teacher's number of channels: (N, C, …).
        teacher: (N, C, …); where positions differ in number, both are averaged to the smaller one.
    """
    return F.mse_loss(*with_equal_positions(projected, teacher))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently the two look at the positions: a sum over positions, averaged over the samples, 0 to 4.

    Zagoruyko and Komodakis, "Paying more attention to attention", 2017: the squared distance of the sums of squared
    activations over the channels, each of norm 1. Their code has the mean over P positions and a weight of β / 2:
    a weight of β / (2 · P) here is the same.

    Args:
        student: (N, C, …), with at least one dimension of positions.
        teacher: (N, D, …); where positions differ in number, both maps are averaged to the smaller one.
    """
    maps = with_equal_positions(*(features.square().mean(dim=1, keepdim=True) for features in (student, teacher)))
    of_student, of_teacher = (F.normalize(each.flatten(1), dim=1) for each in maps)
    return (of_student - of_teacher).square().sum(dim=1).mean()


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently the two see the samples relative to each other: distances, plus twice the angles.

    Park et al., "Relational knowledge distillation", 2019: Huber losses of the distances between all pairs, in units
    of their mean, and of the cosines at the second of all triples, in the paper's proportion of 1 to 2. Batches are
    taken in groups of at most 64 samples. Shapes need not agree.

    Args:
        student: (N, …), flattened.
        teacher: (N, …), flattened.
    """
    groups = zip(student.flatten(1).split(LARGEST_GROUP), teacher.flatten(1).split(LARGEST_GROUP), strict=True)
    losses = [len(one) * _of_group(one, other) for one, other in groups]
    return torch.stack(losses).sum() / len(student)


def with_equal_positions(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both averaged to the smaller number of positions in each dimension behind the channels."""
    size = [min(sizes) for sizes in zip(one.shape[2:], other.shape[2:], strict=True)]
    pooled = [each if list(each.shape[2:]) == size else POOLING[each.dim()](each, size) for each in (one, other)]
    return pooled[0], pooled[1]


def _of_group(student: Tensor, teacher: Tensor) -> Tensor:
    (distances, cosines), (wanted_distances, wanted_cosines) = _relations(student), _relations(teacher)
    return F.smooth_l1_loss(distances, wanted_distances) + 2 * F.smooth_l1_loss(cosines, wanted_cosines)


def _relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (N, N) in units of their mean, and the cosine at j between i and k as [j, i, k].

    All of it follows from the inner products (N, N): differences (N, N, D) of wide features would not fit.
    """
    centered = features - features.mean(dim=0)  # changes no relation, and cancels less
    products = centered @ centered.T
    norms = products.diagonal()
    squared = norms[:, None] + norms - 2 * products
    apart = squared > 1e-6 * norms.mean()  # not so are a sample and itself, or its copy
    distances = torch.where(apart, squared, 1.0).sqrt()  # no infinite gradient where there is no distance
    # (x_i − x_j) · (x_k − x_j), and for each j the lengths of both.
    inner = products[None] - products[:, :, None] - products[:, None, :] + norms[:, None, None]
    cosines = inner / (distances[:, :, None] * distances[:, None, :])
    distances = distances * apart
    mean = distances.sum() / apart.sum().clamp_min(1)
    return distances / mean.clamp_min(1e-12), cosines * (apart[:, :, None] & apart[:, None, :])
