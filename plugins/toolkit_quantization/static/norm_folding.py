"""Batch norms as part of the convolution or the linear layer before them, whose weights they scale."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit_quantization.static.network import StaticNetwork
from toolkit_quantization.static.program import Operation, users, without

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FOLDING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Norm(NamedTuple):
    """What a batch norm computes in eval mode, per channel; all (channels,)."""

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    eps: float


def folded(weight: Tensor, bias: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return the weight (out, …) and the bias (out,) of the layer that computes a layer and the norm after it."""
    factor = norm.weight / (norm.variance + norm.eps).sqrt()
    shift = -norm.mean if bias is None else bias - norm.mean
    return weight * factor.view(-1, *[1] * (weight.dim() - 1)), shift * factor + norm.bias


def fold_norms(network: StaticNetwork) -> list[str]:
    """Fold what can be folded, in place; return the paths of the batch norms that stay."""
    staying = []
    for name in [each.name for each in network.program]:
        # Anew, because a norm that was folded before may have been the input of this one.
        operation = next(each for each in network.program if each.name == name)
        norm = _layer(network, operation)
        if not isinstance(norm, NORMS):
            continue
        layer = _foldable(network, operation, norm)
        if layer is None:
            staying.append(operation.target)
        else:
            _fold(layer, norm)
            network.program = without(network.program, [operation.name])
            network.drop_unused()
    return staying


def _layer(network: StaticNetwork, operation: Operation) -> Any:
    return network.get_submodule(operation.target) if operation.kind == "layer" else None


def _foldable(network: StaticNetwork, operation: Operation, norm: Any) -> nn.Module | None:
    """Return the layer that a batch norm can be folded into, None if there is none."""
    program = network.program
    before = next((each for each in program if each.name == operation.inputs[0]), None)
    layer = None if before is None else _layer(network, before)
    if before is None or not isinstance(layer, FOLDING) or norm.running_mean is None:
        return None
    calls = Counter(each.target for each in program if each.kind == "layer")
    is_called_once = calls[before.target] == calls[operation.target] == 1
    is_alone = users(program)[before.name] == [operation] and not _is_shared(network, layer)
    return layer if is_called_once and is_alone and len(layer.weight) == len(norm.running_mean) else None


def _is_shared(network: StaticNetwork, layer: nn.Module) -> bool:
    owners = Counter(id(weight.parameter) for weight in masks.named_weights(network))
    return any(owners[id(weight.parameter)] > 1 for weight in masks.named_weights(layer))


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    """Change a layer in place; the zeros of its masks stay zeros."""
    kept = masks.current(layer)
    if parametrize.is_parametrized(layer):
        masks.fold(layer)
    mean, variance = norm.running_mean, norm.running_var
    scale = torch.ones_like(mean) if norm.weight is None else norm.weight
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias
    weight, bias = folded(layer.weight, layer.bias, Norm(mean, variance, scale, shift, norm.eps))
    layer.weight.copy_(weight)
    if layer.bias is None:
        layer.bias = nn.Parameter(bias.clone())
    else:
        layer.bias.copy_(bias)
    masks.apply(layer, {path: mask for path, mask in kept.items() if path == "weight"})
