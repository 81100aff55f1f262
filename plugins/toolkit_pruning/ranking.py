"""Masks from scores, and the sparsity over time: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["global", "layer", "row"]


def smallest_masks(
    scores: Sequence[Tensor], sparsity: float, scope: Literal["global", "layer"] = "global"
) -> list[Tensor]:
    """Bool masks that are False for the `round(sparsity * n)` smallest scores, the first ones among equals.

    `scores` are tensors of any shapes on one device, such as the magnitudes of weights (Han et al. 2015), ranked all
    together ("global") or each tensor separately ("layer").
    """
    groups = [[score] for score in scores] if scope == "layer" else [scores]
    return [mask for group in groups for mask in _ranked_together(group, sparsity)]


def _ranked_together(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    flat = torch.cat([score.flatten() for score in scores])
    count = round(sparsity * len(flat))
    # Finding a threshold takes a fraction of the time and memory of sorting.
    threshold = flat.kthvalue(count).values if count else -torch.inf
    keep = flat > threshold
    surplus = len(flat) - int(keep.sum()) - count
    if surplus:
        keep[(flat == threshold).nonzero()[-surplus:]] = True
    parts = keep.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def row_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Bool mask that is False for the `round(sparsity * n)` smallest scores of each row (O, n), the first of equals."""
    order = scores.argsort(dim=1, stable=True)
    mask = torch.ones_like(scores, dtype=torch.bool)
    return mask.scatter_(1, order[:, : round(sparsity * scores.shape[1])], False)


def n_of_m_mask(scores: Tensor, n: int, m: int, dim: int = 1) -> Tensor:
    """Bool mask of the `n` largest of every `m` scores along `dim`, whose size `m` divides."""
    groups = scores.movedim(dim, -1).unflatten(-1, (-1, m))
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, groups.topk(n).indices, True)
    return mask.flatten(-2).movedim(-1, dim).contiguous()


def cubic_sparsity(progress: float, initial: float, final: float) -> float:
    """Return the sparsity at `progress` (0 to 1), which rises ever more slowly (Zhu and Gupta 2017)."""
    return final + (initial - final) * (1 - progress) ** 3
