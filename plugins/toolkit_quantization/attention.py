"""Multi-head attention with int8 products in its four projections; between them the arithmetic is float."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit import stored_as
from toolkit_quantization.int8 import Int8Linear

IN = ("query", "key", "value")


@stored_as("quantization.Int8Attention")
class Int8Attention(nn.Module):
    """`nn.MultiheadAttention` with int8 projections and the same interface; no gradient.

    Query, key and value have a projection layer each, so that it serves self-attention and cross-attention.
    """

    replaces = "MultiheadAttention"

    def __init__(self, attention: nn.MultiheadAttention, projections: Mapping[str, Int8Linear]) -> None:
        """Copy the sizes of `attention`, and take a projection each for query, key, value and output.

        `attention` does not change; it must have no `bias_k` and no `add_zero_attn`.
        """
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = attention.embed_dim, attention.num_heads, attention.head_dim
        self.kdim, self.vdim, self.dropout = attention.kdim, attention.vdim, attention.dropout
        self.batch_first = attention.batch_first
        self._qkv_same_embed_dim = attention._qkv_same_embed_dim  # read by the encoder layer around it
        for name, projection in projections.items():
            self.add_module(name, projection)
        self.train(attention.training)

    @property
    def in_proj_bias(self) -> Tensor | None:
        """The biases of the three input projections, None without biases."""
        biases = [self._projection(name).bias for name in IN]
        return torch.cat([bias for bias in biases if bias is not None]) if biases[0] is not None else None

    def dense_weights(self) -> dict[str, Tensor | None]:
        """Return the parameters that the attention would have, in floats, by name."""
        weights = [self._projection(name).dense_weight() for name in IN]
        if self._qkv_same_embed_dim:
            inputs = {"in_proj_weight": torch.cat(weights)}
        else:
            inputs = {f"{name[0]}_proj_weight": weight for name, weight in zip(IN, weights, strict=True)}
        output = self._projection("output")
        rest = {"in_proj_bias": self.in_proj_bias, "out_proj.weight": output.dense_weight()}
        return {**inputs, **rest, "out_proj.bias": output.bias}

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        is_batched = query.dim() == 3
        if not is_batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        inputs = zip(IN, (query, key, value), strict=True)
        heads = [self._heads(name, tensor, is_batched) for name, tensor in inputs]
        mask = _joined_masks(attn_mask, key_padding_mask, heads[0])
        outputs, weights = self._attend(heads, mask, need_weights)
        outputs = self._projection("output")(outputs.transpose(1, 2).flatten(2))
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
        if not is_batched:
            return outputs.squeeze(0), None if weights is None else weights.squeeze(0)
        return outputs if self.batch_first else outputs.transpose(0, 1), weights

    def _projection(self, name: str) -> Int8Linear:
        projection = self._modules[name]
        assert isinstance(projection, Int8Linear)
        return projection

    def _heads(self, name: str, inputs: Tensor, is_batched: bool) -> Tensor:
        """Project inputs in any of the three layouts: (batch, heads, length, head size)."""
        if not is_batched:
            inputs = inputs.unsqueeze(0)
        elif not self.batch_first:
            inputs = inputs.transpose(0, 1)
        projected: Tensor = self._projection(name)(inputs)
        return projected.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _attend(self, heads: list[Tensor], mask: Tensor | None, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        query, key, value = heads
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(query, key, value, mask, dropout), None
        scores = query / sqrt(self.head_dim) @ key.transpose(2, 3)
        weights = F.dropout(F.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
        return weights @ value, weights


def _joined_masks(attention: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
    """Return the mask to add to the scores, in a shape that broadcasts to (batch, heads, length, key length)."""
    masks = []
    if attention is not None:
        attention = _additive(attention, query.dtype)
        masks.append(attention if attention.dim() == 2 else attention.unflatten(0, query.shape[:2]))
    if padding is not None:
        masks.append(_additive(padding, query.dtype)[:, None, None])
    return sum(masks[1:], masks[0]) if masks else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype is torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)
    return mask.to(dtype)
