"""Which operations pass a positive factor of a channel on, and where the channels are behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from toolkit_quantization.static.program import Operation, Ref

# Channels are the second dimension, the last one, or one after the other in the last one, each with several values.
Layout = Literal["second", "last", "flat"]
Lookup = Callable[[str], nn.Module]  # from the path of a layer to the layer

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Identity, *DROPOUTS)
HOMOGENEOUS_FUNCTIONS = {
    *("functional.relu", "functional.leaky_relu", "functional.dropout", "functional.dropout2d"),
    *("torch.relu", "relu", "contiguous"),
}
POOLINGS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
POOLING_FUNCTIONS = {
    *("functional.max_pool1d", "functional.max_pool2d", "functional.avg_pool1d", "functional.avg_pool2d"),
    *("functional.adaptive_avg_pool1d", "functional.adaptive_avg_pool2d"),
}
PADDINGS = (
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
)
FLATTENINGS = {"torch.flatten", "flatten"}
RESHAPINGS = {"torch.reshape", "reshape", "view"}
MEANS = {"torch.mean", "mean"}


def behind(operation: Operation, layout: Layout, lookup: Lookup) -> Layout | None:
    """Return where the channels of an operation's input are in its result; None if it does not keep their factors."""
    if not operation.args or not isinstance(operation.args[0], Ref):
        return None
    if operation.kind == "layer":
        return _behind_layer(lookup(operation.target), layout)
    if operation.kind not in ("function", "method"):
        return None
    name = operation.target
    if name in HOMOGENEOUS_FUNCTIONS:
        return layout
    if name in POOLING_FUNCTIONS:
        return layout if layout == "second" else None
    if name in FLATTENINGS:
        return _flat(layout) if _argument(operation, "start_dim", 0) == 1 else None
    if name in RESHAPINGS:
        return _flat(layout) if _is_two_dimensional(operation) else None
    if layout != "second":
        return None
    if name == "functional.pad":
        return None if operation.kwargs.get("value", (*operation.args, None, None, None)[3]) else layout
    return _behind_mean(operation) if name in MEANS else None


def _behind_layer(layer: nn.Module, layout: Layout) -> Layout | None:
    if isinstance(layer, HOMOGENEOUS):
        return layout
    if isinstance(layer, nn.PReLU):
        return layout if layout == "second" or layer.num_parameters == 1 else None
    if isinstance(layer, (*POOLINGS, *PADDINGS)):
        return layout if layout == "second" and not getattr(layer, "return_indices", False) else None
    if isinstance(layer, nn.Flatten):
        return _flat(layout) if (layer.start_dim, layer.end_dim) == (1, -1) else None
    return None


def _flat(layout: Layout) -> Layout:
    return "flat" if layout == "second" else layout


def _behind_mean(operation: Operation) -> Layout | None:
    """Channels behind a mean over everything but samples and channels, which is usual before a classifier."""
    dim = _argument(operation, "dim", None)
    if not isinstance(dim, (list, tuple)) or sorted(dim) not in ([2, 3], [-2, -1], [2, 3, 4], [-3, -2, -1]):
        return None
    return "second" if operation.kwargs.get("keepdim", len(operation.args) > 2 and operation.args[2]) else "flat"


def _is_two_dimensional(operation: Operation) -> bool:
    shape: Any = operation.args[1:]
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = shape[0]
    return len(shape) == 2


def _argument(operation: Operation, name: str, default: Any) -> Any:
    return operation.kwargs.get(name, operation.args[1] if len(operation.args) > 1 else default)
