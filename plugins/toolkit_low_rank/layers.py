"""The layers that can be factored, what they compute on a sample, and the modules that take their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import toolkit
from toolkit import masks
from toolkit_low_rank.params import Params

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Reasons: TypeAlias = dict[str, str]


@dataclass
class Use:
    """How often a layer's weights are applied for one sample: at positions of its inputs and of its outputs."""

    inputs: int = 0
    outputs: int = 0


@dataclass(frozen=True)
class Candidate:
    """A layer that can be factored, with the positions that it is applied at for one sample."""

    path: str
    layer: Any
    use: Use

    @property
    def is_tucker(self) -> bool:
        """Whether the layer has a kernel of more than one position."""
        return prod(self.weight.shape[2:]) > 1

    @property
    def weight(self) -> Tensor:
        """The layer's weight (outputs, inputs, *size)."""
        weight: Tensor = self.layer.weight.detach()
        return weight

    def macs(self, ranks: tuple[int, ...] = ()) -> int:
        """Return the MACs for one sample, of the layer or of its factors."""
        first, *others = self.sizes(ranks)
        return first * (self.use.inputs if len(others) > 1 else self.use.outputs) + sum(others) * self.use.outputs

    def sizes(self, ranks: tuple[int, ...] = ()) -> list[int]:
        """Return the number of weights of the layer, or of each of its factors; 0 for a factor that is left out."""
        outputs, inputs, *size = self.weight.shape
        if not ranks:
            return [self.weight.numel()]
        if not self.is_tucker:
            return [inputs * ranks[0], ranks[0] * outputs]
        first, last = self.has_factors(ranks)
        return [first * inputs * ranks[0], ranks[0] * ranks[1] * prod(size), last * ranks[1] * outputs]

    def has_factors(self, ranks: tuple[int, ...]) -> tuple[bool, bool]:
        """Return whether the inputs and the outputs of a kernel need a factor: at full rank they need none."""
        return ranks[0] < self.weight.shape[1], ranks[1] < self.weight.shape[0]


def candidates(model: nn.Module, params: Params, data: toolkit.Data) -> tuple[list[Candidate], Reasons]:
    """Return the selected layers that can be factored, and the reason for each that cannot."""
    chosen = toolkit.layers(model, KINDS, params.layers, params.exclude)
    uses = _uses(model, {layer.path for layer in chosen}, data)
    tensors = [id(weight.parameter) for weight in masks.named_weights(model)]
    found: list[Candidate] = []
    left: Reasons = {}
    for path, layer, weight in chosen:
        is_shared = tensors.count(id(weight.parameter)) > 1
        reason = _obstacle(layer, is_shared=is_shared, is_called=path in uses)
        if reason:
            left[path] = reason
        else:
            found.append(Candidate(path, layer, uses[path]))
    return found, left


def factored(layer: Any, factors: tuple[Tensor, ...]) -> nn.Sequential:
    """Return layers of the layer's kind that compute with its factors one after another; the last has the bias."""
    # The kernel moves over positions as the layer does; of two matrices the first.
    wide = next((number for number, weight in enumerate(factors) if weight.dim() > 2), 0)
    parts = [_part(layer, weight, as_layer=number == wide) for number, weight in enumerate(factors)]
    parts[-1].bias = layer.bias
    return nn.Sequential(*parts).train(layer.training)


def _part(layer: Any, weight: Tensor, *, as_layer: bool) -> Any:
    outputs, inputs, *size = weight.shape
    settings: dict[str, Any] = {"bias": False, "device": "meta"}  # whose weights draw no random numbers
    if not isinstance(layer, nn.Linear):
        size = size or [1] * len(layer.kernel_size)
        settings["kernel_size"] = tuple(size)
        if as_layer:
            settings |= {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    part = type(layer)(inputs, outputs, **settings)
    tensor = weight.to(layer.weight).reshape(outputs, inputs, *size).contiguous()
    part.weight = nn.Parameter(tensor, requires_grad=layer.weight.requires_grad)
    return part


def _obstacle(layer: Any, *, is_shared: bool, is_called: bool) -> str:
    if not is_called:
        return "the network reads its weight instead of calling it, or does not use it"
    if parametrize.is_parametrized(layer):
        return "its weight is masked or computed from other tensors, which factors would undo; factor it before that"
    if type(layer) not in KINDS:
        return f"{type(layer).__name__} may compute something else than its base class"
    if is_shared:
        return "it shares its weight with another layer"
    if getattr(layer, "groups", 1) > 1:
        return "its channels are in groups"
    return "" if layer.weight.isfinite().all() else "its weight is not finite"


def _uses(model: nn.Module, paths: set[str], data: toolkit.Data) -> dict[str, Use]:
    """Return the use of each layer that is called."""
    twin = masks.clone(model).eval()
    uses: dict[str, Use] = {}

    def counting(path: str) -> Callable[..., None]:
        def hook(layer: Any, args: Any, kwargs: Any, output: Tensor) -> None:
            use = uses.setdefault(path, Use())
            channels = layer.weight.shape[1] * getattr(layer, "groups", 1)
            use.inputs += (args[0] if args else kwargs["input"]).numel() // channels
            use.outputs += output.numel() // layer.weight.shape[0]

        return hook

    for path in paths:
        twin.get_submodule(path).register_forward_hook(counting(path), with_kwargs=True)
    with torch.no_grad():
        data.task.forward(twin, data.example(1))
    return uses
