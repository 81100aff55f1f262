"""What operations between layers do with channels: pass them on, sum, multiply, join, move or flatten them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from toolkit_channels.reshaping import permuted, reshaped, transposed
from toolkit_channels.slots import Slots
from toolkit_channels.values import Channels, Count, Operand, Sizes, Weight, channels_in

SAME = frozenset(
    {
        *("relu", "relu6", "gelu", "silu", "elu", "selu", "celu", "leakyrelu", "leaky_relu", "rrelu", "hardswish"),
        *("mish", "tanh", "tanhshrink", "softshrink", "hardshrink", "softsign", "neg", "abs", "sqrt", "square", "sin"),
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alphadropout", "featurealphadropout", "alpha_dropout"),
        *("feature_alpha_dropout", "stochastic_depth", "identity", "contiguous", "clone", "detach", "to", "float"),
        *("type_as", "upsample", "upsamplingbilinear2d", "upsamplingnearest2d", "interpolate"),
    }
)
"""Names of operations and layers that leave channels where they are, and zeros zero."""

SHIFTS = frozenset({"sigmoid", "hardsigmoid", "softplus", "logsigmoid", "exp", "cos"})
"""Names of those that turn zeros into other values."""

POOLS = {
    f"{adaptive}{kind}{separator}pool{dims}d": dims
    for separator in ("", "_")
    for adaptive in ("", f"adaptive{separator}")
    for kind in ("max", "avg")
    for dims in (1, 2, 3)
}
"""Names of poolings, and the number of dimensions that they pool."""

Rule = Callable[[Slots, Sequence[Any], dict[str, Any], Any], Any]


class UnclearError(Exception):
    """The operation does something with channels that has no rule; the text follows its name."""


def pooled(dims: int, channels: Channels, inputs: Tensor) -> Channels | None:
    """Return the channels after a pooling; None if it pools the channels themselves."""
    return channels if channels.dim < inputs.dim() - dims else None


def _argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str, default: Any = None) -> Any:
    argument = args[position] if len(args) > position else kwargs.get(name, default)
    return argument.value if isinstance(argument, Operand) else argument


def _first(args: Sequence[Any], kwargs: dict[str, Any]) -> Operand:
    first: Any = args[0] if args else kwargs.get("input", kwargs.get("x"))
    if not isinstance(first, Operand) or first.channels is None:
        raise UnclearError("uses them in a way that has no rule")
    return first


def _channels(args: Sequence[Any], kwargs: dict[str, Any]) -> Channels:
    channels = _first(args, kwargs).channels
    assert channels is not None
    return channels


def _same(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    if len(channels_in([*args[1:], *kwargs.values()])) > ("input" in kwargs):
        raise UnclearError("depends on how many there are")
    return _channels(args, kwargs)


def _shifts(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    return _channels(args, kwargs).vanishing(False)


def _clamp(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    low, high = _argument(args, kwargs, 1, "min", 0), _argument(args, kwargs, 2, "max", 0)
    channels = _same(slots, args, kwargs, out)
    is_zero_kept = isinstance(low, (int, float)) and isinstance(high, (int, float)) and low <= 0 <= high
    return channels if is_zero_kept else channels.vanishing(False)


def _pool(dims: int) -> Rule:
    def rule(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
        first = _first(args, kwargs)
        result = pooled(dims, _channels(args, kwargs), first.value)
        if result is None or not isinstance(out, Tensor):
            raise UnclearError("pools the channels themselves")
        return result

    return rule


def _sum(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels | None:
    return _together(slots, args, kwargs, out, vanishes=all)


def _product(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels | None:
    return _together(slots, args, kwargs, out, vanishes=any)


def _quotient(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels | None:
    if channels_in(args[1]):
        raise UnclearError("divides by them")
    return _together(slots, args, kwargs, out, vanishes=any)


def _together(
    slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any, vanishes: Callable[[list[bool]], bool]
) -> Channels | None:
    """Tie the channels of two terms or factors, or bind a parameter that is added or multiplied."""
    known = [operand for operand in args[:2] if isinstance(operand, Operand) and operand.channels is not None]
    if any(isinstance(operand, Operand) and isinstance(operand.known, (Count, Sizes)) for operand in args):
        raise UnclearError("calculates with how many there are")
    places = {operand.channels.dim - operand.value.dim() for operand in known if operand.channels is not None}
    if len(places) != 1:
        raise UnclearError("combines them along different dimensions")
    place = places.pop()
    units = max((operand.channels.units for operand in known if operand.channels is not None), key=len)
    zero = [_joined(slots, operand, place, units) for operand in args[:2]]
    return Channels(place + out.dim(), units, vanishes(zero))


def _joined(slots: Slots, operand: Any, place: int, units: np.ndarray) -> bool:
    """Tie what an operand has at that place to the units, and return whether it is zero where they vanish."""
    value = operand.value if isinstance(operand, Operand) else operand
    if not isinstance(value, Tensor):
        return bool(value == 0)
    size = value.shape[place] if value.dim() >= -place else 1
    if isinstance(operand.known, Weight) and size == len(units) and value is slots.tensor(operand.known.path):
        slots.bind(operand.known.path, value.dim() + place, "norm", units)
        return True
    if operand.channels is None:
        if size > 1:
            slots.units.keep(units, "they are combined with values whose number is fixed")
        return False
    if len(operand.channels.units) != len(units):
        slots.units.keep(operand.channels.units, "one of them is spread over many")
        return False
    slots.units.tie(operand.channels.units, units)
    return operand.channels.vanish


def _cat(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    parts = args[0] if args else kwargs["tensors"]
    dim = _argument(args, kwargs, 1, "dim", kwargs.get("axis", 0)) % out.dim()
    known = [part.channels for part in parts if part.channels is not None]
    if {channels.dim for channels in known} == {dim}:
        units = [
            part.channels.units if part.channels is not None else slots.fixed(part.value.shape[dim], "they are inputs")
            for part in parts
        ]
        vanish = all(part.channels is None or part.channels.vanish for part in parts)
        return Channels(dim, np.concatenate(units), vanish)
    if len({channels.dim for channels in known}) > 1 or len(known) < len(parts):
        raise UnclearError("joins them with something else")
    for channels in known[1:]:
        slots.units.tie(known[0].units, channels.units)
    return known[0].vanishing(all(channels.vanish for channels in known))


def _flatten(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    return _reshaped(_first(args, kwargs), out)


def _view(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    """`view` and `reshape`, where the size that has the channels is -1 or read from a tensor."""
    result = _reshaped(_first(args, kwargs), out)
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


def _reshaped(first: Operand, out: Tensor) -> Channels:
    assert first.channels is not None
    result = reshaped(first.channels, first.value.shape, out.shape)
    if result is None:
        raise UnclearError("splits them, or merges them with samples")
    return result


def _permute(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    order = args[1:] or [kwargs["dims"]]
    order = order[0] if len(order) == 1 and isinstance(order[0], (tuple, list)) else order
    return permuted(_channels(args, kwargs), order)


def _transpose(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    first = _first(args, kwargs)
    one, other = _argument(args, kwargs, 1, "dim0"), _argument(args, kwargs, 2, "dim1")
    return transposed(_channels(args, kwargs), first.value.dim(), one, other)


def _mean(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    first, channels = _first(args, kwargs), _channels(args, kwargs)
    dims = _argument(args, kwargs, 1, "dim")
    dims = {dim % first.value.dim() for dim in ([dims] if isinstance(dims, int) else dims or range(out.dim() + 99))}
    if channels.dim in dims:
        raise UnclearError("takes a mean or maximum over them")
    is_kept = out.dim() == first.value.dim()
    return channels if is_kept else channels.at(channels.dim - sum(dim < channels.dim for dim in dims))


def _unsqueeze(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    channels, dim = _channels(args, kwargs), _argument(args, kwargs, 1, "dim") % out.dim()
    return channels.at(channels.dim + (dim <= channels.dim))


def _pad(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    """Zeros around the channels have no layer that makes them, so their number stays."""
    first, channels = _first(args, kwargs), _channels(args, kwargs)
    pad = _argument(args, kwargs, 1, "pad")
    mode, value = _argument(args, kwargs, 2, "mode", "constant"), _argument(args, kwargs, 3, "value", 0) or 0
    position = 2 * (first.value.dim() - 1 - channels.dim)
    before, after = (*pad, *[0] * (position + 2))[position : position + 2]
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
    channels = _channels(args, kwargs)
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
    first, dim = _first(args, kwargs), _argument(args, kwargs, 1, "dim")
    sizes = Sizes(_channels(args, kwargs))
    return sizes if dim is None else _size_at(sizes.channels, dim, first.value.dim())


def _getattr(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Any:
    if args[1] == "shape":
        return Sizes(_channels(args, kwargs))
    if args[1] in ("device", "dtype", "ndim", "requires_grad", "is_cuda"):
        return None
    raise UnclearError(f"reads `{args[1]}` of them")


def _nothing(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Any:
    return None


RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(SHIFTS, _shifts),
    **{name: _pool(dims) for name, dims in POOLS.items()},
    **dict.fromkeys(("clamp", "hardtanh", "clip"), _clamp),
    **dict.fromkeys(("add", "iadd", "sub", "isub"), _sum),
    **dict.fromkeys(("mul", "imul", "multiply"), _product),
    **dict.fromkeys(("div", "truediv", "itruediv"), _quotient),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(("flatten", "squeeze"), _flatten),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("mean", "amax", "amin"), _mean),
    **dict.fromkeys(("transpose", "swapaxes"), _transpose),
    **dict.fromkeys(("dim", "ndimension", "_assert"), _nothing),
    **{"permute": _permute, "unsqueeze": _unsqueeze, "pad": _pad, "size": _size},
    **{"getitem": _getitem, "getattr": _getattr},
}
"""Rules by the name of the function or method."""
