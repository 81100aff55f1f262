"""The skeleton of a network of plain layers in a few dozen bytes: the layers' classes and what they were made with.

A pickled skeleton says everything that a module holds. Where calling the classes of torch.nn with what they were made
with gives the very same skeleton, that is all there is to say.
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
# What descriptions of networks look like, for deflate to refer to; the likeliest at the end. Part of the format: a
# changed dictionary reads no earlier file.
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
    """What `build` needs to make a model that has the same skeleton as this one; None where it would not.

    Args:
        model: with plain parameters, in eval mode. Those of a layer are put in the order that its class gives them,
            which is another one where a mask was folded.
    """
    try:
        content = json.dumps(_described(model), separators=(",", ":")).encode()
        built = build(content)
    except (_OtherError, DamagedError, RecursionError):
        return None
    for own, new in zip(model.modules(), built.modules(), strict=True):
        if own._parameters.keys() == new._parameters.keys():
            own._parameters = {name: own._parameters[name] for name in new._parameters}
    return content if pack_skeleton(built) == pack_skeleton(clone(model)) else None


def build(content: bytes) -> nn.Module:
    """The module on `meta`, in eval mode; a `DamagedError` says why there is none."""
    try:
        with torch.device("meta"):
            return _Builder().module(json.loads(content), 0).eval()
    except DamagedError:
        raise
    except Exception as error:  # whatever a class says of arguments that somebody made up
        raise DamagedError(f"its layers cannot be made: {type(error).__name__}: {error}") from error


class _OtherError(Exception):
    """Not a network of plain layers."""


def _described(module: nn.Module) -> Any:
    if type(module) is nn.Sequential:
        children = list(module.named_children())
        if [name for name, _ in children] == [str(place) for place in range(len(children))]:
            return [_described(child) for _, child in children]
        return {name: _described(child) for name, child in children}
    kind = KINDS.get(type(module).__name__)
    if type(module) is not kind:
        raise _OtherError
    arguments = [(_argument(module, name), default) for name, default in _signature(kind)]
    while arguments and arguments[-1][0] == arguments[-1][1]:
        arguments.pop()
    return [kind.__name__, *(value for value, _ in arguments)]


def _signature(kind: type[nn.Module]) -> list[tuple[str, Any]]:
    parameters = inspect.signature(kind).parameters.values()
    return [(each.name, each.default) for each in parameters if each.name not in NOT_WRITTEN and each.name != "args"]


def _argument(module: nn.Module, name: str) -> Any:
    """What a layer was made with, as it keeps it; the sizes of a convolution as one, if they are the same."""
    value = getattr(module, name, _OtherError)
    if value is _OtherError:
        raise _OtherError
    if name == "bias":
        return value is not None
    if not isinstance(value, (bool, int, float, str, tuple, type(None))):
        raise _OtherError
    if isinstance(module, _ConvNd) and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value


class _Builder:
    def __init__(self) -> None:
        self.layers = 0

    def module(self, described: Any, depth: int) -> nn.Module:
        self.layers += 1
        if self.layers > MAX_LAYERS or depth > MAX_DEPTH:
            raise DamagedError("it has more layers than are opened, or layers nested too deeply")
        if isinstance(described, dict):
            return nn.Sequential(
                OrderedDict((name, self.module(child, depth + 1)) for name, child in described.items())
            )
        if not isinstance(described, list):
            raise DamagedError(f"a {type(described).__name__} is where a layer should be")
        if described and isinstance(described[0], str):
            return self._layer(described[0], described[1:])
        return nn.Sequential(*(self.module(child, depth + 1) for child in described))

    def _layer(self, name: str, arguments: list[Any]) -> nn.Module:
        kind = KINDS.get(name)
        if kind is None:
            raise DamagedError(f"its layer '{name}' is none of the plain ones")
        names = [parameter for parameter, _ in _signature(kind)][: len(arguments)]
        return kind(**dict(zip(names, map(_plain, arguments), strict=True)))


def _plain(value: Any) -> Any:
    """A number, text or None as it is, a list of a few numbers as a tuple."""
    if isinstance(value, list):
        if len(value) > MAX_SIZES or not all(isinstance(size, int) for size in value):
            raise DamagedError("a layer in it is made with a list that no layer takes")
        return tuple(value)
    if isinstance(value, dict):
        raise DamagedError("a layer in it is made with a table")
    return value
