"""Multi-head attention with int8 products in its four projections; between them the arithmetic is float."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from toolkit import stored_as
from toolkit.attention import ProjectedAttention
from toolkit_quantization.int8 import Int8Linear

IN = ("query", "key", "value")


@stored_as("quantization.Int8Attention")
class Int8Attention(ProjectedAttention):
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

    def project(self, name: str, inputs: Tensor) -> Tensor:
        outputs: Tensor = self._projection(name)(inputs)
        return outputs

    def _projection(self, name: str) -> Int8Linear:
        projection = self._modules[name]
        assert isinstance(projection, Int8Linear)
        return projection
