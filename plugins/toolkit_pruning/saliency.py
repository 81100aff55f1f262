"""Scores that rank weights by how much they matter. Tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from toolkit_pruning.params import CriterionOfWeights


def magnitude_scores(weight: Tensor) -> Tensor:
    """Return the absolute values (Han et al. 2015), in the weight's shape and dtype."""
    return weight.abs()


def lamp_scores(weight: Tensor) -> Tensor:
    """Return the square of each weight over the sum of the squares of all that are not smaller, itself among them.

    Within a layer this is the order of the magnitudes. Scores of different layers compare, because each says how much
    pruning the weight, after all smaller ones, distorts its layer. The largest weight of every layer has score 1, so
    that a global ranking empties no layer before every layer is down to one weight. Of equal weights the first counts
    as the smaller one. Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021.

    Args:
        weight: of any shape and floating dtype; zeros, such as masked weights, have score 0 and enter no sum.

    Returns:
        Scores in [0, 1] of the weight's shape, in float64, because in fewer bits many of them would be equal.
    """
    magnitudes = weight.flatten().double().abs()
    ascending, order = magnitudes.sort(stable=True)
    # Divide by the largest, so that no square overflows or vanishes. Sum from the largest down: the total minus the sum
    # of the smaller ones would be mere rounding error once little of the total is left.
    squares = (ascending / ascending[-1:].clamp_min(torch.finfo(torch.float64).tiny)).square()
    sums = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(magnitudes)
    scores[order] = squares / sums.clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)


def taylor_scores(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the absolute first-order change of the loss if a weight became zero, in the weight's shape.

    Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019. Average it over batches.
    """
    return (weight * gradient).abs()


def random_scores(weight: Tensor) -> Tensor:
    """Uniform random numbers, as a control. Drawn on the CPU, so that a seed means the same on every device."""
    return torch.rand(weight.shape).to(weight.device)


SCORES: Mapping[CriterionOfWeights, Callable[[Tensor], Tensor]] = {
    "magnitude": magnitude_scores,
    "lamp": lamp_scores,
    "random": random_scores,
}
"""Scores that need nothing but the weight."""
