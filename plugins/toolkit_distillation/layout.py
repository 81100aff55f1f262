"""Finds out in which dimension of its features a module has the channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

# Modules whose three-dimensional outputs are (N, C, L); those of all others are (N, L, C).
CHANNELS_FIRST = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)
# Layers that treat the last dimension as channels: networks such as Swin pass pictures (N, H, W, C) between them.
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
WIDTHS = ("out_channels", "num_features", "num_channels", "out_features")


def channels_dim(module: nn.Module, model: nn.Module, shape: Sequence[int]) -> int | None:
    """Return the dimension of the channels in features of this shape: 1 or the last; None if it cannot be told.

    Pictures and videos are (N, C, …), unless a layer inside the module works on the last dimension. Then the dimension
    counts whose size is the width of a layer inside. A module without layers, such as an activation, is judged by the
    layers of the whole model, if one of them normalizes the last dimension.
    """
    last = len(shape) - 1
    if len(shape) == 3:
        return 1 if isinstance(module, CHANNELS_FIRST) else last
    if last == 1 or (len(shape) > 3 and _works_on_the_last_dimension(module)):
        return last
    widths = set(_widths(module))
    inside = module if widths else model
    if not any(_is_one_of(part, CHANNELS_LAST if widths else (nn.LayerNorm,)) for part in inside.modules()):
        return 1
    widths = widths or set(_widths(model))
    fitting = [dim for dim in (1, last) if shape[dim] in widths]
    return fitting[0] if len(fitting) == 1 else None


def _works_on_the_last_dimension(module: nn.Module) -> bool:
    return any(type(module).forward is kind.forward for kind in CHANNELS_LAST)


def _is_one_of(module: nn.Module, kinds: Sequence[type[nn.Module]]) -> bool:
    """Return whether a module is a layer of one of these kinds, or replaces one."""
    return any(isinstance(module, kind) or getattr(module, "replaces", "") == kind.__name__ for kind in kinds)


def _widths(module: nn.Module) -> Iterator[int]:
    """Yield the numbers of channels that the layers inside a module return."""
    for part in module.modules():
        values: list[Any] = [getattr(part, name, None) for name in WIDTHS]
        if isinstance(part, nn.LayerNorm):
            values.append(part.normalized_shape[-1])
        yield from (value for value in values if isinstance(value, int))
