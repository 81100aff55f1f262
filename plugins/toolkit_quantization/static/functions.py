"""The functions that a static network may call, by name, and what each operation does to the grid of its inputs.

A file holds names only, and no other function than one of these is called for them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_OF_PYTHON = ("add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "getitem", "matmul", "pow")
_OF_TORCH = (
    *("abs", "add", "cat", "chunk", "clamp", "concat", "div", "exp", "flatten", "matmul", "max", "maximum", "mean"),
    *("min", "minimum", "mul", "permute", "pow", "relu", "reshape", "sigmoid", "softmax", "split", "sqrt", "squeeze"),
    *("stack", "sub", "sum", "tanh", "transpose", "unsqueeze"),
)
_OF_LAYERS = (
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "dropout", "dropout2d", "elu", "gelu"),
    *("hardsigmoid", "hardswish", "hardtanh", "interpolate", "layer_norm", "leaky_relu", "log_softmax", "logsigmoid"),
    *("max_pool1d", "max_pool2d", "mish", "normalize", "pad", "relu", "relu6", "sigmoid", "silu", "softmax"),
    *("softplus", "tanh"),
)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OF_PYTHON},
    **{f"torch.{name}": getattr(torch, name) for name in _OF_TORCH},
    **{f"functional.{name}": getattr(F, name) for name in _OF_LAYERS},
}
METHODS = {
    *("abs", "add", "amax", "chunk", "clamp", "contiguous", "div", "dim", "exp", "expand", "flatten", "float"),
    *("masked_fill", "matmul", "max", "mean", "mul", "new_zeros", "permute", "pow", "relu", "repeat", "reshape"),
    *("sigmoid", "size", "softmax", "split", "squeeze", "sub", "sum", "tanh", "transpose", "type_as", "unflatten"),
    *("unsqueeze", "view"),
}
ATTRIBUTES = {"shape", "dtype", "device", "ndim"}  # of tensors
NUMBERS = {"dim", "size"}  # methods that return no tensor
# A network that relies on the change in place of a tensor that it uses again gives other outputs, and is not traced.
OUT_OF_PLACE: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
}

# Operations whose inputs and output are rounded, each to a grid of its own.
JOINS = {"operator.add", "operator.mul", "torch.add", "torch.mul", "torch.cat", "torch.concat", "add", "mul"}
# Operations that an integer runtime merges into the layer before them.
ACTIVATIONS = {"functional.relu", "functional.relu6", "functional.hardtanh", "torch.relu", "relu"}
ACTIVATION_LAYERS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
# Operations that return some of the values that they get, so that input and output share a grid.
SELECTIONS = {
    *("functional.max_pool1d", "functional.max_pool2d", "functional.dropout", "functional.dropout2d"),
    *("torch.flatten", "torch.permute", "torch.reshape", "torch.squeeze", "torch.transpose", "torch.unsqueeze"),
    *("contiguous", "flatten", "permute", "reshape", "squeeze", "transpose", "unflatten", "unsqueeze", "view"),
}
SELECTION_LAYERS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Flatten, nn.Unflatten, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
)


def name_of(function: Callable[..., Any]) -> str | None:
    """Return the name of a function, None if a static network does not call it."""
    function = OUT_OF_PLACE.get(function, function)
    return next((name for name, known in FUNCTIONS.items() if known is function), None)
