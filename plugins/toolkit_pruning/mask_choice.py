"""Chooses the masks: which weights to prune, ranked per layer or over all layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from toolkit import masks
from toolkit_pruning.params import Criterion, Params, n_of_m
from toolkit_pruning.prunable import inputs_of, only_weight
from toolkit_pruning.ranking import n_of_m_mask, smallest_masks
from toolkit_pruning.saliency import SCORES


def choose(model: nn.Module, layers: Sequence[str], params: Params, sparsity: float) -> dict[str, Tensor]:
    """Masks for `masks.apply`, by path. Weights that are already masked rank below all others."""
    weights = {weight.path: weight for weight in masks.named_weights(model)}
    chosen = [weights[layer if layer in weights else only_weight(layer)] for layer in layers]
    present = masks.current(model)
    scores = [_score(weight.value, present.get(weight.path), params.criterion) for weight in chosen]
    kept = n_of_m(params.pattern)
    if kept is None:
        made = smallest_masks(scores, sparsity, params.scope)
    else:
        made = [n_of_m_mask(s, *kept, inputs_of(w)[0]) for s, w in zip(scores, chosen, strict=True)]
    return {weight.path: mask for weight, mask in zip(chosen, made, strict=True)}


def _score(weight: Tensor, kept: Tensor | None, criterion: Criterion) -> Tensor:
    score = SCORES[criterion](weight)
    return score if kept is None else score.masked_fill_(~kept, -1.0)
