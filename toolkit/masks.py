"""Masks, and other parametrizations that constrain a weight through every later stage.

A mask is a parametrization of `torch.nn.utils.parametrize`. Whatever an optimizer does to the tensor below it (weight
decay and momentum included), the layer sees the zeros. The model itself carries them, so no later stage needs to know.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from toolkit.errors import ToolkitError
from toolkit.stored_names import stored_as
from toolkit.substitutes import substitutes_in, without_substitutes


class Weight(NamedTuple):
    """One named weight: the layer sees `getattr(module, attribute)`, the optimizer changes `parameter`."""

    path: str
    module: nn.Module
    attribute: str
    parameter: Tensor

    @property
    def value(self) -> Tensor:
        """The tensor as the layer sees it, with any mask applied."""
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
    """Yield every parameter under the name that its layer uses, such as `fc1.weight`, whether parametrized or not.

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
                # Some parametrizations, such as weight norm, compute a weight from several tensors: take the first.
                name = "original" if parametrizations.is_tensor else "original0"
                yield Weight(f"{dot}{attribute}", module, attribute, getattr(parametrizations, name))


def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask weights in place; a weight that already has a mask keeps its zeros and gains the new ones.

    Args:
        model: changed in place; a weight shared by several layers is masked in all of them and stays shared.
        masks: by path such as `fc1.weight`, tensors of the weight's shape: bool, or of ones and zeros; False or zero
            where the weight becomes zero.

    Raises:
        ToolkitError: the model has no weight of that path or has not initialized it yet, or a mask is not a tensor of
            the weight's shape with nothing but ones and zeros. No weight has been masked then.
    """
    weights = {weight.path: weight for weight in named_weights(model)}
    for path, mask in masks.items():
        _check_mask(_weight_at(weights, path), mask)
    for path, mask in masks.items():
        existing = _mask_of(weights[path])
        if existing is None:
            keep_in_shape(model, path, partial(Mask, mask.to(weights[path].parameter, copy=True)))
        else:
            existing.mask.mul_(mask.to(existing.mask))


def current(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's masks by path, as bool tensors; a shared weight appears under each of its names."""
    masks = ((weight.path, _mask_of(weight)) for weight in named_weights(model))
    return {path: mask.mask.bool() for path, mask in masks if mask is not None}


def keep_in_shape(model: nn.Module, path: str, parametrization: Callable[[], nn.Module]) -> None:
    """Register one parametrization for the weight at `path`, in every layer that shares the tensor.

    Args:
        model: changed in place.
        path: such as `fc1.weight`.
        parametrization: creates the module. Its `forward` must keep shape and dtype, and be idempotent, because folding
            replaces the tensor below by what the layer saw.

    Raises:
        ToolkitError: the model has no weight of that path or has not initialized it yet, `parametrization`
            returns something else than a module, or torch rejects the module, for example for another shape.
    """
    weights = {weight.path: weight for weight in named_weights(model)}
    target = _weight_at(weights, path)
    module = parametrization()
    kind = type(module).__name__
    if not isinstance(module, nn.Module):
        raise ToolkitError(f"the parametrization of '{path}' must be an nn.Module, found {kind}")
    for weight in weights.values():
        if weight.parameter is target.parameter:
            try:
                parametrize.register_parametrization(weight.module, weight.attribute, module)
            except (RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise ToolkitError(f"{kind} cannot parametrize '{weight.path}': {reason}") from error


def clone(model: nn.Module) -> nn.Module:
    """Return an independent copy; in a training step, of the weights themselves (see `training.using(weights=…)`).

    A bare `copy.deepcopy` shares each parametrized layer's class with the original, so that folding or
    masking the copy would break the original.
    """
    with torch.no_grad(), without_substitutes(model):
        for module in model.modules():
            if isinstance(module, nn.RNNBase):  # its list of flat weights is that of the last forward pass
                module._init_flat_weights()
        twin = copy.deepcopy(model)
    for module in twin.modules():
        if parametrize.is_parametrized(module):
            shared = type(module)
            body = {key: item for key, item in vars(shared).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(shared.__name__, shared.__bases__, body)
    return twin


def folded(model: nn.Module) -> nn.Module:
    """Return a copy in which every weight is a plain parameter with the values that its layer saw.

    In a training step these include the functions of `training.using(weights=…)`.
    """
    plain = clone(model)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            fold(module)
    with torch.no_grad():
        for substitute in substitutes_in(model):
            plain.get_parameter(substitute.path).copy_(substitute.tensor).add_(0.0)
    return plain


def fold(module: nn.Module) -> None:
    """Turn the parametrized weights of one layer into plain parameters, in place; shared weights stay shared.

    Raises:
        ToolkitError: the module is a model with parametrized layers, not one of these layers.
    """
    if not parametrize.is_parametrized(module):
        _refuse_model(module)
        return
    lists: Any = module.parametrizations
    for attribute in list(lists):
        with torch.enable_grad():
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
        value = getattr(module, attribute)
        if not isinstance(value, nn.Parameter):  # torch leaves a tensor, if a weight of several parts is not trained
            delattr(module, attribute)
            module.register_parameter(attribute, nn.Parameter(value, requires_grad=False))
        with torch.no_grad():
            getattr(module, attribute).add_(0.0)  # a mask turns negative weights into -0.0


def _refuse_model(module: nn.Module) -> None:
    inner = next((path for path, part in module.named_modules() if parametrize.is_parametrized(part)), None)
    if inner is not None:
        raise ToolkitError(
            f"masks.fold takes one layer, and {type(module).__name__} is a model with the parametrized layer "
            f"'{inner}'; fold that layer, or take a plain copy by masks.folded(model)"
        )


def _weight_at(weights: Mapping[str, Weight], path: str) -> Weight:
    if path not in weights:
        close = difflib.get_close_matches(path, weights, n=1)
        remedy = f"did you mean '{close[0]}'?" if close else "masks.named_weights(model) has all paths"
        raise ToolkitError(f"the model has no weight '{path}'; {remedy}")
    if is_lazy(weights[path].parameter):
        raise ToolkitError(f"'{path}' is not initialized yet; run the lazy model on a batch first")
    return weights[path]


def _check_mask(weight: Weight, mask: Any) -> None:
    if not isinstance(mask, Tensor):
        raise ToolkitError(f"the mask of '{weight.path}' must be a tensor, found {type(mask).__name__}")
    if mask.shape != weight.value.shape:
        shape, required = tuple(mask.shape), tuple(weight.value.shape)
        raise ToolkitError(f"the mask of '{weight.path}' must have the weight's shape {required}, found {shape}")
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ToolkitError(f"the mask of '{weight.path}' must be bool, or contain nothing but ones and zeros")


def _mask_of(weight: Weight) -> Mask | None:
    if not parametrize.is_parametrized(weight.module, weight.attribute):
        return None
    lists: Any = weight.module.parametrizations
    return next((part for part in lists[weight.attribute] if isinstance(part, Mask)), None)


__all__ = ["Mask", "Weight", "apply", "clone", "current", "fold", "folded", "keep_in_shape", "named_weights"]
