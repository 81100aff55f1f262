"""Layers that a technique puts in place of a layer of `torch.nn`, recognized by their attributes.

A replacement has the attribute `replaces`, the class name of the original layer. A layer with a single weight defines
`dense_weight()`, which returns this weight as a float tensor, and the attribute `bias`, a tensor or None. Any other
layer defines `dense_weights()`, which returns all weights and biases as float tensors, by the parameter names of the
original layer (`weight_ih_l0`, `out_proj.weight`). The optional attribute `precision` is the name of the stored format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple

from torch import Tensor, nn


class Replacement(NamedTuple):
    """A module that replaces a layer of `torch.nn`, and its path in the model."""

    path: str
    module: nn.Module

    @property
    def replaces(self) -> str:
        """The class name of the original layer, such as `Linear` or `LSTM`."""
        return str(self.module.replaces)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All parameters of the original layer by name, as float tensors of the original shapes."""
        module: Any = self.module
        if hasattr(module, "dense_weights"):
            tensors: dict[str, Tensor | None] = module.dense_weights()
        else:
            tensors = {"weight": module.dense_weight(), "bias": getattr(module, "bias", None)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @property
    def precision(self) -> str | None:
        """The format of the stored weights, such as `int4`, if it differs from the dtypes of the layer's tensors."""
        precision = getattr(self.module, "precision", None)
        return precision if isinstance(precision, str) else None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors with at least two dimensions, by name; all tensors if there are none."""
        tensors = self.tensors
        return {name: tensor for name, tensor in tensors.items() if tensor.dim() > 1} or tensors


def replaced_layers(model: nn.Module) -> Iterator[Replacement]:
    """Yield every replacement once, under its first path; modules inside a replacement are skipped."""
    seen: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module not in seen and is_replaced(module):
            seen.update(module.modules())
            yield Replacement(path, module)


def replace_layers(model: nn.Module, successors: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace modules in place, under all their names; return the model, or its successor if it has one itself.

    Blocks of `nn.TransformerEncoder` with a new layer call their layers from then on, also in eval mode, where a fused
    function would read the weights of the old ones.
    """
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = successors.get(child, child)
    call_layers(model, set(successors.values()))
    return successors.get(model, model)


def call_layers(model: nn.Module, layers: Set[nn.Module]) -> None:
    """Make the blocks of `nn.TransformerEncoder` with one of these layers call it, rather than read its weights."""
    for module in model.modules():
        if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerEncoder)) and layers & set(module.modules()):
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False
            else:
                module.activation_relu_or_gelu = 0


def is_replaced(module: nn.Module) -> bool:
    """Return whether a module replaces a layer of `torch.nn`."""
    return hasattr(module, "replaces") and (hasattr(module, "dense_weights") or hasattr(module, "dense_weight"))
