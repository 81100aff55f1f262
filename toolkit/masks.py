"""Weights kept in shape through all later stages, as parametrizations that live in the model itself.

A mask is a parametrization of `torch.nn.utils.parametrize`: whatever an optimizer does to the tensor below
it, with weight decay, momentum or anything else, the weight that the layer sees has its zeros, and no later
stage has to know.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit.errors import ToolkitError
from toolkit.stored_names import stored_as
from toolkit.substitutes import substitutes_in, without_substitutes


class Weight(NamedTuple):
    """One named weight: the layer sees `getattr(module, attribute)`, an optimizer changes `parameter`."""

    path: str
    module: nn.Module
    attribute: str
    parameter: Tensor

    @property
    def value(self) -> Tensor:
        """The tensor as the layer sees it: masked, if it is."""
        value: Tensor = getattr(self.module, self.attribute)
        return value.detach()


@stored_as("toolkit.Mask")
class Mask(nn.Module):
    """Parametrization that multiplies a weight by a mask of ones and zeros of its shape and dtype."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        # In the weight's dtype: multiplying by a bool tensor takes several times as long.
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def named_weights(model: nn.Module) -> Iterator[Weight]:
    """Every parameter under the name that its layer gives it, `fc1.weight`, parametrized or not.

    A tensor that several layers share appears under each of its names, with the same `parameter`.
    """
    for prefix, module in model.named_modules():
        if ".parametrizations." in f".{prefix}.":
            continue
        dot = f"{prefix}." if prefix else ""
        for attribute, parameter in module.named_parameters(recurse=False):
            yield Weight(f"{dot}{attribute}", module, attribute, parameter)
        if parametrize.is_parametrized(module):
            lists: Any = module.parametrizations
            for attribute, parametrizations in lists.items():
                # A weight that is made of several tensors, as by weight norm, is known by the first of them.
                name = "original" if parametrizations.is_tensor else "original0"
                yield Weight(f"{dot}{attribute}", module, attribute, getattr(parametrizations, name))


def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask weights in place; a weight that has a mask keeps its zeros and gets the new ones as well.

    Args:
        model: changed in place; a weight shared by several layers is masked in all of them and stays shared.
        masks: by path such as `fc1.weight`, bool tensors of the weight's shape, False where it is to be zero.
    """
    weights = {weight.path: weight for weight in named_weights(model)}
    for path, mask in masks.items():
        if path not in weights:
            raise ToolkitError(f"there is no weight '{path}' to mask")
        weight = weights[path]
        shape = weight.value.shape
        if mask.shape != shape:
            raise ToolkitError(f"the mask of '{path}' is {tuple(mask.shape)} and must be {tuple(shape)}")
        existing = _mask_of(weight)
        if existing is None:
            keep_in_shape(model, path, partial(Mask, mask.to(weight.parameter, copy=True)))
        else:
            existing.mask.mul_(mask.to(existing.mask))


def current(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a model by path, as bool tensors; shared weights under each of their names."""
    found = ((weight.path, _mask_of(weight)) for weight in named_weights(model))
    return {path: mask.mask.bool() for path, mask in found if mask is not None}


def keep_in_shape(model: nn.Module, path: str, parametrization: Callable[[], nn.Module]) -> None:
    """Register one parametrization for the weight at `path`, in every layer that shares the tensor.

    `parametrization` makes the module; its `forward` must be idempotent, because folding replaces the tensor
    below by what the layer saw.
    """
    weights = list(named_weights(model))
    target = next(weight for weight in weights if weight.path == path)
    made = parametrization()
    for weight in weights:
        if weight.parameter is target.parameter:
            parametrize.register_parametrization(weight.module, weight.attribute, made)


def clone(model: nn.Module) -> nn.Module:
    """An independent copy.

    A bare `copy.deepcopy` shares each parametrized layer's class with the original, so that folding or
    masking the copy would break the original.
    """
    with torch.no_grad(), without_substitutes(model):
        for module in model.modules():
            if isinstance(module, nn.RNNBase):  # keeps a list of weights as the last forward pass computed them
                module._init_flat_weights()
        twin = copy.deepcopy(model)
    for module in twin.modules():
        if parametrize.is_parametrized(module):
            shared = type(module)
            body = {key: item for key, item in vars(shared).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(shared.__name__, shared.__bases__, body)
    return twin


def folded(model: nn.Module) -> nn.Module:
    """A copy in which every parametrized weight is a plain parameter with the value that its layer saw."""
    plain = clone(model)
    for module in list(plain.modules()):
        fold(module)
    with torch.no_grad():
        for substitute in substitutes_in(model):
            plain.get_parameter(substitute.path).copy_(substitute.tensor).add_(0.0)
    return plain


def fold(module: nn.Module) -> None:
    """Make the parametrized weights of one layer plain, in place; layers that shared them go on sharing."""
    if not parametrize.is_parametrized(module):
        return
    lists: Any = module.parametrizations
    for attribute in list(lists):
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
        with torch.no_grad():
            getattr(module, attribute).add_(0.0)  # a mask turns negative weights into -0.0


def _mask_of(weight: Weight) -> Mask | None:
    if not parametrize.is_parametrized(weight.module, weight.attribute):
        return None
    lists: Any = weight.module.parametrizations
    return next((part for part in lists[weight.attribute] if isinstance(part, Mask)), None)


__all__ = ["Mask", "Weight", "apply", "clone", "current", "fold", "folded", "keep_in_shape", "named_weights"]
