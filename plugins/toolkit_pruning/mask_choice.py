"""Chooses the masks: which weights to prune, ranked per row, per layer or over all layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit_pruning.params import Params, n_of_m
from toolkit_pruning.prunable import inputs_of, rows_of
from toolkit_pruning.ranking import n_of_m_mask, row_mask, smallest_masks
from toolkit_pruning.scores import weights_of


def choose(model: nn.Module, scores: Mapping[str, Tensor], params: Params, sparsity: float) -> dict[str, Tensor]:
    """Masks for `masks.apply`, by path, from scores by layer. Weights that are already masked rank below all others."""
    weights = list(weights_of(model, list(scores)).values())
    present = masks.current(model)
    ranked = [
        score.masked_fill(~present[weight.path], -torch.inf) if weight.path in present else score
        for weight, score in zip(weights, scores.values(), strict=True)
    ]
    pairs = list(zip(weights, ranked, strict=True))
    kept = n_of_m(params.pattern)
    if kept is not None:
        chosen = [n_of_m_mask(score, *kept, inputs_of(weight)[0]) for weight, score in pairs]
    elif params.scope == "row":
        chosen = [_mask_by_row(weight, score, sparsity) for weight, score in pairs]
    else:
        chosen = smallest_masks(ranked, sparsity, params.scope)
    return {weight.path: mask for weight, mask in zip(weights, chosen, strict=True)}


def _mask_by_row(weight: masks.Weight, scores: Tensor, sparsity: float) -> Tensor:
    places = rows_of(weight, torch.arange(scores.numel(), device=scores.device).view(scores.shape))
    mask = torch.empty(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[places] = row_mask(rows_of(weight, scores), sparsity)
    return mask.view(scores.shape)
