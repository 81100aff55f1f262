"""What multi-head attention multiplies by its weights: query, key and value, and the heads side by side."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


def attention_inputs(
    layer: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the inputs of each weight, (groups, samples, inputs); query, key and value are groups of one weight."""
    arguments = _SIGNATURE.bind(layer, *args, **kwargs).arguments
    inputs = [arguments[name].flatten(0, -2) for name in ("query", "key", "value")]
    if layer._qkv_same_embed_dim:
        yield "in_proj_weight", torch.stack(_equally_many(inputs))
    else:
        for name, rows in zip("qkv", inputs, strict=True):
            yield f"{name}_proj_weight", rows.unsqueeze(0)
    yield "out_proj.weight", _heads(layer, args, kwargs).reshape(1, -1, layer.embed_dim)


def _equally_many(inputs: Sequence[Tensor]) -> list[Tensor]:
    """As many rows of each tensor, evenly over all of them: keys and values can be more than queries."""
    count = min(map(len, inputs))
    return [rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).long()] for rows in inputs]


def _heads(layer: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What the last projection gets: the output of an attention whose last projection changes nothing."""
    weight = layer.out_proj.weight
    projection = nn.Linear(layer.embed_dim, layer.embed_dim, bias=False, device=weight.device, dtype=weight.dtype)
    nn.init.eye_(projection.weight)
    twin: nn.MultiheadAttention = object.__new__(type(layer))  # without the hooks of the layer
    vars(twin).update(vars(layer), _modules={"out_proj": projection})
    outputs: Tensor = twin.forward(*args, **kwargs)[0]
    return outputs
