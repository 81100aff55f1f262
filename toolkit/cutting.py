"""Tensors of a model cut along their dimensions: masks, shared tensors and promises of earlier stages follow.

A technique says which indices of which tensors stay. What was cut is remembered by layer until the stage has been
checked, so that zeros of earlier stages are looked for where they are now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit.attention import narrow
from toolkit.errors import ToolkitError
from toolkit.replacements import call_layers, replace_layers

Indices: TypeAlias = Mapping[int, Tensor]
"""The indices that stay along each dimension, int64 and ascending."""

_cuts: WeakKeyDictionary[nn.Module, list[tuple[str, Indices]]] = WeakKeyDictionary()

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.modules.batchnorm._NormBase,)


def cut(model: nn.Module, kept: Mapping[str, Indices]) -> None:
    """Cut tensors in place, with their masks, and set the sizes that layers state; attentions lose whole heads.

    Args:
        model: changed in place; a tensor that several layers share is cut in all of them and stays shared.
        kept: by path of a parameter or buffer, such as `conv1.weight`, the indices that stay along each dimension.

    Raises:
        ToolkitError: the model has no such tensor, it has no such dimension or index, or something other than a mask
            keeps it in shape. Nothing has been cut then.
    """
    places = {path: _Place(model, path) for path in kept}
    for path, place in places.items():
        place.check(kept[path])
    present = masks.current(model)
    cut_masks = {path: _selected(present[path], kept[path]) for path in kept if path in present}
    _drop_masks(model, {id(places[path].tensor) for path in cut_masks})
    new = {id(place.tensor): _new(place.tensor, kept[path]) for path, place in places.items()}
    along = {id(place.tensor): kept[path] for path, place in places.items()}
    changed = [(module, attribute, tensor) for module, attribute, tensor in _tensors(model) if id(tensor) in new]
    for module, attribute, tensor in changed:
        _set(module, attribute, new[id(tensor)])
        _cuts.setdefault(module, []).append((attribute, along[id(tensor)]))
    attentions = {module for module, _, _ in changed if isinstance(module, nn.MultiheadAttention)}
    for attention in attentions:
        narrow(attention)
    call_layers(model, attentions)
    masks.apply(model, cut_masks)
    for layer in {module for module, _, _ in changed}:
        _state_sizes(layer)


def bypass(model: nn.Module, paths: Iterable[str]) -> None:
    """Put the identity in place of modules, in place; what earlier stages promised of their weights ends with them."""
    successors: dict[nn.Module, nn.Module] = {}
    nothing: Indices = {0: torch.empty(0, dtype=torch.int64)}
    for path in paths:
        module = model.get_submodule(path)
        identity = successors[module] = nn.Identity()
        _cuts[identity] = [(weight.path, nothing) for weight in masks.named_weights(module)]
    replace_layers(model, successors)


def take_cuts(model: nn.Module) -> dict[str, list[Indices]]:
    """Return what was cut since the last call by path of the tensor, in order, and forget it."""
    taken: dict[str, list[Indices]] = {}
    for path, module in model.named_modules():
        for attribute, indices in _cuts.pop(module, []):
            taken.setdefault(f"{path}.{attribute}".lstrip("."), []).append(indices)
    return taken


def cut_tensor(tensor: Tensor, cuts: Iterable[Indices]) -> Tensor:
    """Return what is left of a tensor after cuts, in order."""
    for indices in cuts:
        tensor = _selected(tensor, indices)
    return tensor


def _state_sizes(module: nn.Module) -> None:
    """Set the sizes that a layer states to those of its tensors; a layer of groups keeps the size of a group."""
    layer: Any = module
    if isinstance(module, CONVOLUTIONS):
        outputs, inputs = layer.weight.shape[:2]
        layer.groups = layer.groups if layer.groups == 1 else outputs * layer.groups // layer.out_channels
        layer.in_channels, layer.out_channels = inputs * layer.groups, outputs
    elif isinstance(module, TRANSPOSED):
        layer.in_channels, layer.out_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    elif isinstance(module, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(module, BATCH_NORMS):
        layer.num_features = len(layer.weight if layer.weight is not None else layer.running_mean)
    elif isinstance(module, nn.GroupNorm):
        layer.num_groups = layer.num_groups * len(layer.weight) // layer.num_channels
        layer.num_channels = len(layer.weight)
    elif isinstance(module, nn.RNNBase):
        layer.hidden_size, layer.input_size = layer.weight_hh_l0.shape[1], layer.weight_ih_l0.shape[1]
        layer._init_flat_weights()
    elif isinstance(module, nn.PReLU):
        layer.num_parameters = len(layer.weight)


class _Place:
    """Where a tensor is: the layer and the attribute."""

    def __init__(self, model: nn.Module, path: str) -> None:
        self.path = path
        layer, _, self.attribute = path.rpartition(".")
        modules = dict(model.named_modules())
        if layer not in modules:
            raise ToolkitError(f"cannot cut '{path}': the model has no layer '{layer}'")
        self.module = modules[layer]
        self.tensor = _tensor(self.module, self.attribute)
        if self.tensor is None:
            raise ToolkitError(f"cannot cut '{path}': layer '{layer}' has no tensor '{self.attribute}'")

    def check(self, indices: Indices) -> None:
        """Raise a `ToolkitError` if the tensor cannot be cut so."""
        if parametrize.is_parametrized(self.module, self.attribute):
            lists: Any = self.module.parametrizations
            others = [part for part in lists[self.attribute] if not isinstance(part, masks.Mask)]
            if others:
                raise ToolkitError(f"cannot cut '{self.path}': {type(others[0]).__name__} keeps it in shape")
        for dim, kept in indices.items():
            if not 0 <= dim < self.tensor.dim() or not _are_indices(kept, self.tensor.shape[dim]):
                reason = f"its shape {tuple(self.tensor.shape)} has no such indices in dimension {dim}"
                raise ToolkitError(f"cannot cut '{self.path}': {reason}")


def _are_indices(kept: Tensor, size: int) -> bool:
    return kept.dtype == torch.int64 and len(kept) > 0 and int(kept.min()) >= 0 and int(kept.max()) < size


def _tensor(module: nn.Module, attribute: str) -> Any:
    if parametrize.is_parametrized(module, attribute):
        lists: Any = module.parametrizations
        return getattr(lists[attribute], "original" if lists[attribute].is_tensor else "original0")
    return module._parameters.get(attribute, module._buffers.get(attribute))


def _drop_masks(model: nn.Module, tensors: set[int]) -> None:
    """Turn the masked weights on these tensors into plain parameters with their zeros."""
    for weight in list(masks.named_weights(model)):
        if id(weight.parameter) in tensors and parametrize.is_parametrized(weight.module, weight.attribute):
            parametrize.remove_parametrizations(weight.module, weight.attribute, leave_parametrized=True)


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            yield from ((module, name, tensor) for name, tensor in tensors.items() if tensor is not None)


def _set(module: nn.Module, attribute: str, tensor: Tensor) -> None:
    tensors: dict[str, Any] = module._parameters if attribute in module._parameters else module._buffers
    tensors[attribute] = tensor


def _new(tensor: Tensor, indices: Indices) -> Tensor:
    new = _selected(tensor.detach(), indices)
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _selected(tensor: Tensor, indices: Indices) -> Tensor:
    with torch.no_grad():
        for dim, kept in indices.items():
            tensor = tensor.index_select(dim, kept.to(tensor.device))
    return tensor.contiguous()


__all__ = ["Indices", "bypass", "cut"]
