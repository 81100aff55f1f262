"""Layers that a technique replaced, known only by what each of them offers.

`replaces` is the name of the class in `torch.nn` that the layer had. A layer with one weight offers `dense_weight()`,
the float tensor that this weight would be, and the attribute `bias`, a tensor or None. A layer of any kind offers
`dense_weights()` instead: by the names that the replaced layer's parameters had (`weight_ih_l0`, `out_proj.weight`),
weights and biases alike, the float tensors that they would be. It may name its bits in `precision`, a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn


class Replaced(NamedTuple):
    """A module that stands for a layer of `torch.nn`."""

    path: str
    module: nn.Module

    @property
    def replaces(self) -> str:
        """The class it stands for: `Linear`, `LSTM`."""
        return str(self.module.replaces)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that were the layer's parameters, by name: float, of the shapes that they had."""
        module: Any = self.module
        if hasattr(module, "dense_weights"):
            found: dict[str, Tensor | None] = module.dense_weights()
        else:
            found = {"weight": module.dense_weight(), "bias": getattr(module, "bias", None)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def precision(self) -> str | None:
        """What the weights are kept in, such as `int4`, where the dtypes of the layer's tensors do not tell."""
        precision = getattr(self.module, "precision", None)
        return precision if isinstance(precision, str) else None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors of two dimensions or more, by name: all but the biases."""
        tensors = self.tensors
        return {name: tensor for name, tensor in tensors.items() if tensor.dim() > 1} or tensors


def replaced_layers(model: nn.Module) -> Iterator[Replaced]:
    """Every replaced layer once, under its first path; what such a layer is made of is not looked into."""
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module not in inside and is_replaced(module):
            inside.update(module.modules())
            yield Replaced(path, module)


def is_replaced(module: nn.Module) -> bool:
    """Whether a module stands for a layer of `torch.nn`."""
    return hasattr(module, "replaces") and (hasattr(module, "dense_weights") or hasattr(module, "dense_weight"))
