"""The skeleton of a network of plain layers in a few dozen bytes: the classes of the layers and their arguments.

A pickled skeleton spells out everything in a module. Where calling the classes of torch.nn with their arguments
gives exactly the same skeleton, classes and arguments are enough.
"""

from __future__ import annotations

import inspect
import json
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from toolkit.masks import clone
from toolkit.model_files.packed.streams import DamagedError
from toolkit.model_files.safe.skeleton import pack_skeleton

KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.Softmax),
        *(nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity, nn.LayerNorm),
    )
}
NOT_WRITTEN = ("device", "dtype")
# Typical pieces of descriptions, for deflate to refer to; the likeliest come last. The dictionary is part of the
# format: with another one, no earlier file can be read.
DICTIONARY = (
    b'["LayerNorm",["GELU"],["SiLU"],["Hardswish"],["LeakyReLU",["Tanh"],["Sigmoid"],["Softmax",["Identity"],'
    b'["AvgPool1d",["MaxPool1d",["AdaptiveAvgPool1d",["Conv1d",["BatchNorm1d",["Conv3d",["BatchNorm3d",["ReLU6"],'
    b'["Dropout",0.5],["Dropout2d",["AvgPool2d",{"conv1":["Conv2d",1,20,5],"pool1":["MaxPool2d",2,2],"conv2":'
    b'"flatten":["Flatten"],"fc1":["Linear",784,300],"relu1":["ReLU"],"fc2":["Linear",100,10]}["MaxPool2d",2,2],'
    b'["AdaptiveAvgPool2d",1],["Flatten"],["Linear",64,10]][["Conv2d",1,8,3],["Conv2d",1,8,3,1,1,1,1,false],'
    b'["BatchNorm2d",8],["ReLU"],["Conv2d",16,32,3,1,0,1,1,false],["BatchNorm2d",16],["ReLU"],'
)
MAX_LAYERS, MAX_DEPTH, MAX_SIZES = 10_000, 20, 16


def describe(model: nn.Module) -> bytes | None:
    """Return a description from which `build` makes a model with the same skeleton; None if there is none.

    Args:
        model: with plain parameters, in eval mode. Each layer's parameters are put in the order of its class, which
            folding a mask changes.
    """
    try:
        content = json.dumps(_description(model), separators=(",", ":")).encode()
        built = build(content)
    except (_NotPlainError, DamagedError, RecursionError):
        return None
    for own, new in zip(model.modules(), built.modules(), strict=True):
        if own._parameters.keys() == new._parameters.keys():
            own._parameters = {name: own._parameters[name] for name in new._parameters}
    return content if pack_skeleton(built) == pack_skeleton(clone(model)) else None


def build(content: bytes) -> nn.Module:
    """Return the described module on `meta`, in eval mode; a `DamagedError` says why it cannot be built."""
    try:
        with torch.device("meta"):
            return _Builder().module(json.loads(content), 0).eval()
    except DamagedError:
        raise
    except Exception as error:  # a class may raise anything for forged arguments
        raise DamagedError(f"its layers cannot be built: {type(error).__name__}: {error}") from error


class _NotPlainError(Exception):
    """The network does not consist of plain layers."""


def _description(module: nn.Module) -> Any:
    if type(module) is nn.Sequential:
        children = list(module.named_children())
        if [name for name, _ in children] == [str(place) for place in range(len(children))]:
            return [_description(child) for _, child in children]
        return {name: _description(child) for name, child in children}
    kind = KINDS.get(type(module).__name__)
    if type(module) is not kind:
        raise _NotPlainError
    arguments = [(_argument(module, name), default) for name, default in _signature(kind)]
    while arguments and arguments[-1][0] == arguments[-1][1]:
        arguments.pop()
    return [kind.__name__, *(value for value, _ in arguments)]


def _signature(kind: type[nn.Module]) -> list[tuple[str, Any]]:
    parameters = inspect.signature(kind).parameters.values()
    return [(each.name, each.default) for each in parameters if each.name not in NOT_WRITTEN and each.name != "args"]


def _argument(module: nn.Module, name: str) -> Any:
    """Return an argument of a layer, read from its attribute; equal sizes of a convolution as one."""
    value = getattr(module, name, _NotPlainError)
    if value is _NotPlainError:
        raise _NotPlainError
    if name == "bias":
        return value is not None
    if not isinstance(value, (bool, int, float, str, tuple, type(None))):
        raise _NotPlainError
    if isinstance(module, _ConvNd) and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


class _Builder:
    def __init__(self) -> None:
        self.layers = 0

    def module(self, description: Any, depth: int) -> nn.Module:
        self.layers += 1
        if self.layers > MAX_LAYERS or depth > MAX_DEPTH:
            raise DamagedError(f"it has more than {MAX_LAYERS} layers, or layers nested more than {MAX_DEPTH} deep")
        if isinstance(description, dict):
            return nn.Sequential(
                OrderedDict((name, self.module(child, depth + 1)) for name, child in description.items())
            )
        if not isinstance(description, list):
            raise DamagedError(f"it has a value of type {type(description).__name__} in place of a layer")
        if description and isinstance(description[0], str):
            return self._layer(description[0], description[1:])
        return nn.Sequential(*(self.module(child, depth + 1) for child in description))

    def _layer(self, name: str, arguments: list[Any]) -> nn.Module:
        kind = KINDS.get(name)
        if kind is None:
            raise DamagedError(f"it has a layer '{name}', which is not one of the plain layers")
        names = [parameter for parameter, _ in _signature(kind)][: len(arguments)]
        return kind(**dict(zip(names, map(_plain, arguments), strict=True)))


def _plain(value: Any) -> Any:
    """Return an argument of a layer: a number, text or None as it is, a short list of integers as a tuple."""
    if isinstance(value, list):
        if len(value) > MAX_SIZES or not all(isinstance(size, int) for size in value):
            raise DamagedError("a layer in it has a list for an argument that no layer takes")
        return tuple(value)
    if isinstance(value, dict):
        raise DamagedError("a layer in it has a table for an argument")
    return value
