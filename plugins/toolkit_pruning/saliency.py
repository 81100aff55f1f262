"""How much a weight matters: the scores that are ranked. Tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from toolkit_pruning.params import Criterion


def magnitude_scores(weight: Tensor) -> Tensor:
    """The absolute values (Han et al. 2015), in the weight's shape and dtype."""
    return weight.abs()


def lamp_scores(weight: Tensor) -> Tensor:
    """The square of each weight over the sum of the squares of all that are not smaller, itself among them.

    Within a layer the order is that of the magnitudes; between layers the scores compare, because a weight counts for
    as much as pruning it, after all smaller ones, distorts its layer. The largest weight of every layer has score 1,
    so that global ranking leaves no layer empty before every layer has one weight left. Of equal weights the first
    counts as the smaller one. Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021.

    Args:
        weight: of any shape and floating dtype; zeros, as masks make them, are in no sum and have score 0.

    Returns:
        Scores in [0, 1] of the weight's shape, float64: few bits would make many of them equal.
    """
    magnitudes = weight.flatten().double().abs()
    ascending, order = magnitudes.sort(stable=True)
    # Relative to the largest, so that no square is too large or too small; and summed from the largest on, because the
    # total less the sum of the smaller ones is all rounding where most of the total is gone.
    squares = (ascending / ascending[-1:].clamp_min(torch.finfo(torch.float64).tiny)).square()
    sums = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(magnitudes)
    scores[order] = squares / sums.clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)


def random_scores(weight: Tensor) -> Tensor:
    """Uniform random numbers: a control. Drawn on the processor, so that a seed means the same on every device."""
    return torch.rand(weight.shape).to(weight.device)


SCORES: Mapping[Criterion, Callable[[Tensor], Tensor]] = {
    "magnitude": magnitude_scores,
    "lamp": lamp_scores,
    "random": random_scores,
}
