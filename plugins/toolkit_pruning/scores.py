"""The scores of a model's weights, by the criterion that a recipe names: the smallest are pruned first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

import toolkit
from toolkit import criteria, masks
from toolkit_pruning.params import Params
from toolkit_pruning.prunable import TRANSPOSED, only_weight
from toolkit_pruning.saliency import SCORES, taylor_scores


def weights_of(model: nn.Module, layers: Sequence[str]) -> dict[str, masks.Weight]:
    """Return the weight of each selected layer, by the name that `Selection` has for it."""
    weights = {weight.path: weight for weight in masks.named_weights(model)}
    return {layer: weights[layer if layer in weights else only_weight(layer)] for layer in layers}


def scores_of(model: nn.Module, layers: Sequence[str], params: Params, data: toolkit.Data) -> dict[str, Tensor]:
    """Return the scores of each layer's weight, by layer.

    Layers whose inputs a criterion needs and cannot see are missing. Before a training, all scores of `movement` are 0.
    """
    weights = weights_of(model, layers)
    if params.criterion == "movement":
        return {layer: torch.zeros_like(weight.value) for layer, weight in weights.items()}
    if params.criterion == "taylor":
        return _taylor(model, weights, params.samples, data)
    if params.criterion == "wanda":
        return _wanda(model, weights, params.samples, data)
    score = SCORES[params.criterion]
    return {layer: score(weight.value) for layer, weight in weights.items()}


def _taylor(
    model: nn.Module, weights: Mapping[str, masks.Weight], samples: int, data: toolkit.Data
) -> dict[str, Tensor]:
    scores = {layer: torch.zeros_like(weight.value) for layer, weight in weights.items()}
    for gradients in criteria.gradients(model, data, [weight.path for weight in weights.values()], samples):
        for layer, weight in weights.items():
            if weight.path in gradients:
                scores[layer] += taylor_scores(weight.value, gradients[weight.path])
    return scores


def _wanda(
    model: nn.Module, weights: Mapping[str, masks.Weight], samples: int, data: toolkit.Data
) -> dict[str, Tensor]:
    sharing: dict[int, list[str]] = {}
    for weight in masks.named_weights(model):
        sharing.setdefault(id(weight.parameter), []).append(weight.path.rpartition(".")[0])
    names = {path for weight in weights.values() for path in sharing[id(weight.parameter)]}
    norms = criteria.input_norms(model, data, sorted(names), samples)
    scores = {}
    for layer, weight in weights.items():
        read = [norms[path] for path in sharing[id(weight.parameter)] if path in norms]
        if read and weight.attribute == "weight":
            scores[layer] = _times_inputs(weight, torch.stack(read).square().sum(0).sqrt())
    return scores


def _times_inputs(weight: masks.Weight, input_norms: Tensor) -> Tensor:
    if isinstance(weight.module, TRANSPOSED):
        return weight.value.abs() * input_norms.view(-1, *[1] * (weight.value.dim() - 1))
    return criteria.weights_times_inputs(weight.value, input_norms)
