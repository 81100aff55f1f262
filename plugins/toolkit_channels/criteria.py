"""Scores of output channels: the smaller, the less a channel matters. Tensors in, tensors out.

A weight is (outputs, …), with everything that one output channel reads in its row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit import criteria


def l2_scores(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each row, (O,)."""
    return weight.flatten(1).norm(dim=1)


def scale_scores(scale: Tensor) -> Tensor:
    """Return the absolute scales of a batch norm, (C,). Liu et al., "Network slimming", ICCV 2017."""
    return scale.abs()


def taylor_scores(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the first-order changes of the loss if each weight of a row became zero, without sign and summed, (O,).

    Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019, square them. With their signs, the
    changes of a row nearly cancel where a norm follows. Average it over batches.
    """
    return (weight * gradient).flatten(1).abs().sum(1)


def activation_scores(weight: Tensor, input_norms: Tensor) -> Tensor:
    """Return the absolute weights times the norms of their inputs, summed over each row, (O,).

    Sun et al., "A simple and effective pruning approach for large language models" (Wanda), ICLR 2024.

    Args:
        weight: (O, I / groups, …).
        input_norms: Euclidean norm of each input channel over samples and positions, (I,).
    """
    return criteria.weights_times_inputs(weight, input_norms).flatten(1).sum(1)


def geometric_median_scores(weight: Tensor) -> Tensor:
    """Return the sum of the distances of each row to all others, (O,): a row in the middle is easiest to replace.

    He et al., "Filter pruning via geometric median", CVPR 2019.
    """
    rows = weight.flatten(1)
    return torch.cdist(rows, rows).sum(1)


def random_scores(weight: Tensor) -> Tensor:
    """Return uniform random numbers, (O,), as a control. Drawn on the CPU, so that a seed means the same everywhere."""
    return torch.rand(len(weight)).to(weight.device)
