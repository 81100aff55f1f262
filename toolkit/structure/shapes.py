"""What moving, selecting and reshaping the dimensions of a tensor does with channels, and reading its sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from toolkit.structure.arguments import Rule, UnclearError, argument, channels_of, first
from toolkit.structure.reshaping import permuted, reshaped, transposed
from toolkit.structure.slots import Slots
from toolkit.structure.values import Channels, Count, Operand, Sizes, channels_in


def _flatten(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    return _reshaped(first(args, kwargs), out)


def _view(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    """`view` and `reshape`, where the size that has the channels is -1 or read from a tensor."""
    result = _reshaped(first(args, kwargs), out)
    sizes = args[1:] or [kwargs.get("shape", kwargs.get("size"))]
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    size = sizes[result.dim] if len(sizes) == out.dim() else None
    is_read = isinstance(size, Operand) and isinstance(size.known, Count)
    if not is_read and size != -1:
        raise UnclearError(f"states their number ({out.shape[result.dim]}), which has to be -1 instead")
    others = [size for dim, size in enumerate(sizes) if dim != result.dim]
    if channels_in(others):
        raise UnclearError("splits them")
    return result


def _reshaped(operand: Operand, out: Tensor) -> Channels:
    assert operand.channels is not None
    result = reshaped(operand.channels, operand.value.shape, out.shape)
    if result is None:
        raise UnclearError("splits them, or merges them with samples")
    return result


def _permute(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    order = args[1:] or [kwargs["dims"]]
    order = order[0] if len(order) == 1 and isinstance(order[0], (tuple, list)) else order
    return permuted(channels_of(args, kwargs), order)


def _transpose(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    operand = first(args, kwargs)
    one, other = argument(args, kwargs, 1, "dim0"), argument(args, kwargs, 2, "dim1")
    return transposed(channels_of(args, kwargs), operand.value.dim(), one, other)


def _unsqueeze(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    channels, dim = channels_of(args, kwargs), argument(args, kwargs, 1, "dim") % out.dim()
    return channels.at(channels.dim + (dim <= channels.dim))


def _pad(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    """Zeros around the channels have no layer that makes them, so their number stays."""
    operand, channels = first(args, kwargs), channels_of(args, kwargs)
    pad = argument(args, kwargs, 1, "pad")
    mode, value = argument(args, kwargs, 2, "mode", "constant"), argument(args, kwargs, 3, "value", 0) or 0
    position = 2 * (operand.value.dim() - 1 - channels.dim)
    before, after = (*pad, *[0] * (position + 2))[position : position + 2]
    if isinstance(before, Operand) or isinstance(after, Operand):
        raise UnclearError("pads them by a computed number")
    if (before or after) and (mode != "constant" or min(before, after) < 0):
        raise UnclearError("pads them with copies")
    reason = "forward pads them to a fixed number"
    units = [slots.fixed(before, reason), channels.units, slots.fixed(after, reason)]
    return Channels(channels.dim, np.concatenate(units), channels.vanish and value == 0)


def _getitem(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Any:
    container, key = args[0], args[1]
    if isinstance(container.known, Sizes):
        return _size_at(container.known.channels, key, len(container.value))
    if isinstance(container.known, (list, tuple, dict)):
        return container.known[key]
    channels = channels_of(args, kwargs)
    keys = list(key) if isinstance(key, tuple) else [key]
    if channels_in(keys):
        raise UnclearError("selects by how many there are")
    dim, new = 0, 0
    for each in _expanded(keys, container.value.dim()):
        if each is None:
            new += 1
            continue
        if not isinstance(each, (int, slice)) or (dim == channels.dim and each != slice(None)):
            raise UnclearError("selects some of them")
        if dim == channels.dim:
            return channels.at(new)
        dim, new = dim + 1, new + isinstance(each, slice)
    raise UnclearError("selects some of them")


def _expanded(keys: list[Any], dims: int) -> Iterator[Any]:
    """Return an index with a slice for every dimension that it leaves out."""
    missing = [slice(None)] * (dims - sum(key is not None and key is not Ellipsis for key in keys))
    place = keys.index(Ellipsis) if any(key is Ellipsis for key in keys) else len(keys)
    return iter([*keys[:place], *missing, *keys[place + 1 :]])


def _size_at(channels: Channels, key: Any, dims: int) -> Any:
    if isinstance(key, slice):
        return [_size_at(channels, dim, dims) for dim in range(dims)[key]]
    return Count(channels) if key % dims == channels.dim else None


def _size(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Any:
    operand, dim = first(args, kwargs), argument(args, kwargs, 1, "dim")
    sizes = Sizes(channels_of(args, kwargs))
    return sizes if dim is None else _size_at(sizes.channels, dim, operand.value.dim())


def _getattr(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Any:
    if args[1] == "shape":
        return Sizes(channels_of(args, kwargs))
    if args[1] in ("device", "dtype", "ndim", "requires_grad", "is_cuda"):
        return None
    raise UnclearError(f"reads `{args[1]}` of them")


def _nothing(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Any:
    return None


SHAPES: dict[str, Rule] = {
    **dict.fromkeys(("flatten", "squeeze"), _flatten),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("transpose", "swapaxes"), _transpose),
    **dict.fromkeys(("dim", "ndimension", "_assert"), _nothing),
    **{"permute": _permute, "unsqueeze": _unsqueeze, "pad": _pad, "size": _size},
    **{"getitem": _getitem, "getattr": _getattr},
}
"""Rules by the name of the function or method."""
