"""What arithmetic does with channels: passes them on, sums, multiplies, pools or joins them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from toolkit.structure.arguments import Rule, UnclearError, argument, channels_of, first
from toolkit.structure.slots import Slots
from toolkit.structure.values import Channels, Count, Operand, Sizes, Weight, channels_in

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


def pooled(dims: int, channels: Channels, inputs: Tensor) -> Channels | None:
    """Return the channels after a pooling; None if it pools the channels themselves."""
    return channels if channels.dim < inputs.dim() - dims else None


def _same(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    if len(channels_in([*args[1:], *kwargs.values()])) > ("input" in kwargs):
        raise UnclearError("depends on how many there are")
    return channels_of(args, kwargs)


def _shifts(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    return channels_of(args, kwargs).vanishing(False)


def _clamp(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    low, high = argument(args, kwargs, 1, "min", 0), argument(args, kwargs, 2, "max", 0)
    channels = _same(slots, args, kwargs, out)
    is_zero_kept = isinstance(low, (int, float)) and isinstance(high, (int, float)) and low <= 0 <= high
    return channels if is_zero_kept else channels.vanishing(False)


def _pool(dims: int) -> Rule:
    def rule(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
        operand = first(args, kwargs)
        result = pooled(dims, channels_of(args, kwargs), operand.value)
        if result is None or not isinstance(out, Tensor):
            raise UnclearError("pools the channels themselves")
        return result

    return rule


def _sum(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels | None:
    return _together(slots, args, kwargs, out, vanishes=all)


def _product(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels | None:
    return _together(slots, args, kwargs, out, vanishes=any)


def _quotient(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels | None:
    if channels_in([*args[1:], *kwargs.values()]):
        raise UnclearError("divides by them")
    return _together(slots, args, kwargs, out, vanishes=any)


def _together(
    slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any, vanishes: Callable[[list[bool]], bool]
) -> Channels | None:
    """Tie the channels of two terms or factors, or bind a parameter that is added or multiplied."""
    if len(args) < 2:
        raise UnclearError("combines them in a way that has no rule")
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
    if isinstance(parts, Operand) or not all(isinstance(part, Operand) for part in parts):
        raise UnclearError("joins them in a way that has no rule")
    dim = argument(args, kwargs, 1, "dim", kwargs.get("axis", 0)) % out.dim()
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


def _mean(slots: Slots, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Channels:
    operand, channels = first(args, kwargs), channels_of(args, kwargs)
    dims = argument(args, kwargs, 1, "dim")
    rank = operand.value.dim()
    dims = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims or range(rank))}
    if channels.dim in dims:
        raise UnclearError("takes a mean or maximum over them")
    is_kept = out.dim() == operand.value.dim()
    return channels if is_kept else channels.at(channels.dim - sum(dim < channels.dim for dim in dims))


ARITHMETIC: dict[str, Rule] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(SHIFTS, _shifts),
    **{name: _pool(dims) for name, dims in POOLS.items()},
    **dict.fromkeys(("clamp", "clip"), _clamp),
    **dict.fromkeys(("add", "iadd", "sub", "isub"), _sum),
    **dict.fromkeys(("mul", "imul", "multiply"), _product),
    **dict.fromkeys(("div", "truediv", "itruediv"), _quotient),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(("mean", "amax", "amin"), _mean),
}
"""Rules by the name of the function or method."""
