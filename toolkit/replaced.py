"""Layers that a technique replaced, known only by the two things that each of them offers.

`dense_weight()` returns the float tensor that the replaced layer's weight would be, `replaces` is the name of
that layer's class in `torch.nn`; the attribute `bias`, a tensor or None, is its bias.
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
        """The class it stands for: `Linear`, `Conv2d`."""
        return str(self.module.replaces)

    @property
    def weight(self) -> Tensor:
        """The layer's weight: float, of the shape that the replaced layer's had."""
        module: Any = self.module
        weight: Tensor = module.dense_weight()
        return weight.detach()

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias, None if it has none."""
        bias: Tensor | None = getattr(self.module, "bias", None)
        return bias


def replaced_layers(model: nn.Module) -> Iterator[Replaced]:
    """Every replaced layer once, under its first path; what such a layer is made of is not looked into."""
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module not in inside and hasattr(module, "dense_weight") and hasattr(module, "replaces"):
            inside.update(module.modules())
            yield Replaced(path, module)
