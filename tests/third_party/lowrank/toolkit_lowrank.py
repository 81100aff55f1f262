"""Low-rank factorization: a layer becomes two thinner ones, by a singular value decomposition of its weight.

Denton et al., "Exploiting linear structure within convolutional networks for efficient evaluation", 2014. A layer is
left as it is where two layers would have more weights than one, and where earlier zeros would be lost.
"""

from fnmatch import fnmatchcase
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

import toolkit
from toolkit import masks


class Params(toolkit.Params):
    """How much of every layer is kept."""

    energy: float = Field(default=0.9, gt=0, le=1, description="share of the squared singular values that is kept")
    exclude: list[str] = Field(default=[], description="names of layers to leave alone, as patterns such as 'fc*'")


class LowRank(nn.Sequential):
    """Two layers in place of one: the first reduces to a few channels, the second has the bias.

    It does not name the layer that it replaces: what is counted of it, and pruned in it, are the two layers.
    """


def factors(weight: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """(rank, in) and (out, rank) whose product keeps that share of the squared singular values of (out, in)."""
    u, s, v = torch.linalg.svd(weight.detach().double().flatten(1), full_matrices=False)
    kept = (s**2).cumsum(0) / (s**2).sum().clamp_min(1e-30)
    rank = min(int((kept < energy).sum()) + 1, len(s))
    root = s[:rank].sqrt()
    return (root[:, None] * v[:rank]).to(weight.dtype), (u[:, :rank] * root).to(weight.dtype)


def thinner(layer: Any, rank: int) -> tuple[Any, Any]:
    """A layer down to `rank` channels, without bias, and one up from there; their weights are still to be set."""
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False, **like)
        return first, nn.Linear(rank, layer.out_features, bias=bias, **like)
    reach = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    mode = {"padding_mode": layer.padding_mode}
    into = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False, **reach, **mode, **like)
    return into, nn.Conv2d(rank, layer.out_channels, 1, bias=bias, **like)


def factorized(layer: Any, energy: float) -> LowRank:
    """Two layers for one."""
    down, up = factors(layer.weight, energy)
    first, second = thinner(layer, len(down))
    with torch.no_grad():
        first.weight.copy_(down.view_as(first.weight))
        second.weight.copy_(up.view_as(second.weight))
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    return LowRank(first, second)


def why_not(name: str, layer: Any, parent: nn.Module, model: nn.Module, params: Params) -> str:
    """The reason for which a layer stays as it is; empty if there is none."""
    if any(fnmatchcase(name, pattern) for pattern in params.exclude):
        return "excluded"
    if isinstance(parent, (nn.TransformerEncoderLayer, nn.MultiheadAttention)):
        return "the module around it reads its weight"
    weights = [weight for weight in masks.named_weights(model) if weight.module is layer]
    if any(weight.path in masks.current(model) for weight in weights):
        return "its zeros would be lost"
    if type(layer) not in (nn.Linear, nn.Conv2d) or getattr(layer, "groups", 1) != 1:
        return f"a {type(layer).__name__} that is not factorized"
    if sum(weight.parameter is layer.weight for weight in masks.named_weights(model)) > 1:
        return "its weight is shared"
    down, up = factors(layer.weight, params.energy)
    return "" if down.numel() + up.numel() < layer.weight.numel() else "two layers would have more weights"


@toolkit.hookimpl
def prepare():
    """Room for the reasons that `optimize` finds."""
    return {}


@toolkit.hookimpl
def optimize(model, params, prepared):
    """Replace what can be; refuse where nothing can."""
    found = []
    for path, parent in model.named_modules():
        for child, layer in parent.named_children():
            name = f"{path}.{child}" if path else child
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                prepared[name] = why_not(name, layer, parent, model, params)
                found += [(parent, child, layer)] if not prepared[name] else []
    if not found:
        told = "; ".join(f"{name}: {reason}" for name, reason in prepared.items())
        raise toolkit.TechniqueError(f"there is no layer to factorize ({told})")
    for parent, child, layer in found:
        setattr(parent, child, factorized(layer, params.energy))
    return model


@toolkit.hookimpl
def measure(model, prepared):
    """`layers`: how many are two now, with the channels between them, and why others are not."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LowRank)}
    rows = [{"layer": name, "rank": rank_of(module)} for name, module in layers.items()]
    left = "; ".join(f"{name} is left alone: {reason}" for name, reason in prepared.items() if reason)
    return {"layers": len(layers), "ranks": toolkit.Note(left, rows)}


def rank_of(layers: LowRank) -> int:
    """The channels between the two layers; a later stage may have replaced them again."""
    first: Any = layers[0]
    return len(first.dense_weight() if hasattr(first, "dense_weight") else first.weight)
