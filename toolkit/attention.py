"""Multi-head attention over projections of its own: with other layers than torch's, or with fewer heads than it had."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.stored_names import stored_as

IN = ("query", "key", "value")
OUT = "output"


class ProjectedAttention(nn.Module):
    """The interface of `nn.MultiheadAttention`; a subclass defines `project` and the attributes below.

    The heads need not divide the inputs: `num_heads * head_dim` may be less than `embed_dim`. There is no `bias_k`, and
    no `add_zero_attn`.
    """

    num_heads: int
    head_dim: int
    dropout: float
    batch_first: bool

    def project(self, name: str, inputs: Tensor) -> Tensor:
        """Return the projection of this name (`query`, `key`, `value` or `output`) of inputs (batch, length, size)."""
        raise NotImplementedError

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
        outputs = self.project(OUT, outputs.transpose(1, 2).flatten(2))
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
        if not is_batched:
            return outputs.squeeze(0), None if weights is None else weights.squeeze(0)
        return outputs if self.batch_first else outputs.transpose(0, 1), weights

    def _heads(self, name: str, inputs: Tensor, is_batched: bool) -> Tensor:
        """Inputs in any of the three layouts, projected: (batch, heads, length, head size)."""
        if not is_batched:
            inputs = inputs.unsqueeze(0)
        elif not self.batch_first:
            inputs = inputs.transpose(0, 1)
        return self.project(name, inputs).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _attend(self, heads: list[Tensor], mask: Tensor | None, need_weights: bool) -> tuple[Tensor, Tensor | None]:
        query, key, value = heads
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(query, key, value, mask, dropout), None
        scores = query / sqrt(self.head_dim) @ key.transpose(2, 3)
        weights = F.dropout(F.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
        return weights @ value, weights


@stored_as("toolkit.NarrowAttention")
class NarrowAttention(ProjectedAttention, nn.MultiheadAttention):
    """`nn.MultiheadAttention` with fewer heads than its inputs divide into, and the same parameters."""

    def project(self, name: str, inputs: Tensor) -> Tensor:
        if name == OUT:
            outputs: Tensor = self.out_proj(inputs)
            return outputs
        place = IN.index(name)
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[place]
        return F.linear(inputs, self._weight(name, place), bias)

    def _weight(self, name: str, place: int) -> Tensor:
        weight: Any = self.in_proj_weight
        return weight.chunk(3)[place] if weight is not None else getattr(self, f"{name[0]}_proj_weight")


def narrow(attention: nn.MultiheadAttention) -> None:
    """Make an attention work with the heads that its projections have left, in place.

    Args:
        attention: whole heads have been cut out of its projections; it has no `bias_k` and no `add_zero_attn`.
    """
    weight: Any = attention.in_proj_weight
    rows = len(weight) // 3 if weight is not None else len(attention.q_proj_weight)
    attention.num_heads = rows // attention.head_dim
    attention.__class__ = NarrowAttention


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


__all__ = ["NarrowAttention", "ProjectedAttention"]
