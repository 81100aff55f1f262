"""The chains of a model, from the parts of it that can be traced, and from transformer layers, which are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from toolkit_quantization.equalized.chains import Chain, Chains
from toolkit_quantization.equalized.scales import Inputs
from toolkit_quantization.static.network import static_networks
from toolkit_quantization.static.tracing import UntraceableError, described

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def traced_parts(model: nn.Module) -> list[Chains]:
    """Return what is known of each part of a model: of its static networks, or of the largest parts that trace."""
    known = static_networks(model)
    if known:
        return [Chains(part.program, part.get_submodule, f"{path}." if path else "") for path, part in known.items()]
    return list(_parts(model, ""))


def _parts(module: nn.Module, prefix: str) -> Iterator[Chains]:
    kind = parametrize.type_before_parametrizations(module)
    if kind.__module__.startswith("torch.nn") and not issubclass(kind, CONTAINERS):
        return
    try:
        yield Chains(described(module), module.get_submodule, prefix)
    except UntraceableError:
        for name, child in module.named_children():
            yield from _parts(child, f"{prefix}{name}.")


def transformer_chains(model: nn.Module) -> Iterator[tuple[str, Chain | str]]:
    """Yield the layers inside PyTorch's own transformer layers, each with its chain, or why it has none."""
    for path, block in model.named_modules():
        if type(block) in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
            yield from _inside(block, f"{path}." if path else "")


def _inside(block: Any, prefix: str) -> Iterator[tuple[str, Chain | str]]:
    norm = "norm3" if isinstance(block, nn.TransformerDecoderLayer) else "norm2"
    kind = parametrize.type_before_parametrizations(block.self_attn)
    if kind is nn.MultiheadAttention and block.self_attn._qkv_same_embed_dim:
        yield f"{prefix}self_attn", _behind_norm(block, prefix, "norm1", "self_attn", "in_proj_weight")
    if isinstance(block.linear1, nn.Linear) and isinstance(block.linear2, nn.Linear):
        yield f"{prefix}linear1", _behind_norm(block, prefix, norm, "linear1", "weight")
        chain = Chain(f"{prefix}linear1", {f"{prefix}linear2": Inputs("weight")})
        is_relu = block.activation is F.relu or isinstance(block.activation, nn.ReLU)
        yield f"{prefix}linear2", chain if is_relu else "its inputs come from an activation, which no scale passes"


def _behind_norm(block: Any, prefix: str, norm: str, layer: str, weight: str) -> Chain | str:
    if not block.norm_first:
        return "an addition takes the same channels, and cannot be scaled"
    return Chain(f"{prefix}{norm}", {f"{prefix}{layer}": Inputs(weight)})
