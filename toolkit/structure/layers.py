"""What the layers of torch.nn do with channels: make them, read them, scale them, or pass them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, nn

from toolkit.structure.arguments import UnclearError
from toolkit.structure.arithmetic import POOLS, SAME, SHIFTS, pooled
from toolkit.structure.heads import multihead, rule_of
from toolkit.structure.reshaping import reshaped
from toolkit.structure.slots import SAMPLES, Slots, whole_groups
from toolkit.structure.units import Numbers
from toolkit.structure.values import Channels

Rule: TypeAlias = Callable[[Slots, str, Any, Tensor, "Channels | None", Any], Any]
INPUTS = "what comes in has a fixed number of channels"


def _weight(path: str, name: str = "weight") -> str:
    return f"{path}.{name}".lstrip(".")


def read(slots: Slots, path: str, dim: int, channels: Channels | None, at: int) -> None:
    """Bind the inputs of a weight to the channels that it reads along dimension `at` of its input."""
    size = slots.tensor(path).shape[dim]
    if channels is not None and channels.dim == at and not channels.vanish:
        slots.units.keep(channels.units, f"what '{path}' reads is not zero where they are")
    if channels is None or channels.dim != at:
        slots.bind(path, dim, "input", slots.fixed(size, INPUTS))
    else:
        slots.bind(path, dim, "input", channels.units)
    if channels is not None and channels.dim != at:
        slots.units.keep(channels.units, f"'{path}' works along another dimension")


def made(slots: Slots, path: str, dim: int) -> Numbers:
    """Return the units that a layer makes, and bind its bias to them."""
    units = slots.made_by(_weight(path), dim)
    if slots.has(_weight(path, "bias")):
        slots.bind(_weight(path, "bias"), 0, "output", units)
    return units


def _convolution(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels:
    at = inputs.dim() - len(layer.kernel_size) - 1
    units = made(slots, path, 0)
    slots.multiplied(_weight(path), outputs.numel() / outputs.shape[at] / SAMPLES)
    if layer.groups == 1:
        read(slots, _weight(path), 1, channels, at)
        return Channels(at, units)
    heads = whole_groups(slots.units, units, layer.groups)
    known = channels is not None and channels.dim == at
    entering = channels.units if channels is not None and known else slots.fixed(inputs.shape[at], INPUTS)
    slots.units.tie(whole_groups(slots.units, entering, layer.groups), heads)
    if channels is not None and not known:
        slots.units.keep(channels.units, f"'{path}' works along another dimension")
    return Channels(at, units)


def _transposed(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels:
    if layer.groups > 1:
        raise UnclearError("is a transposed convolution with groups")
    at = inputs.dim() - len(layer.kernel_size) - 1
    slots.multiplied(_weight(path), inputs.numel() / inputs.shape[at] / SAMPLES)
    read(slots, _weight(path), 0, channels, at)
    return Channels(at, made(slots, path, 1))


def _linear(
    slots: Slots, path: str, layer: nn.Module, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels:
    last = inputs.dim() - 1
    slots.multiplied(_weight(path), outputs.numel() / outputs.shape[last] / SAMPLES)
    read(slots, _weight(path), 1, channels, last)
    return Channels(last, made(slots, path, 0))


def _norm(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    names = [name for name in ("weight", "bias", "running_mean", "running_var") if slots.has(_weight(path, name))]
    if channels is None or channels.dim != 1:
        raise UnclearError("normalizes along another dimension")
    if not names:
        raise UnclearError("has no tensor that says how many channels it has")
    for name in names:
        slots.bind(_weight(path, name), 0, "norm", channels.units)
    return channels.vanishing("weight" in names)  # a scale of zero; a running mean alone would be subtracted


def _group_norm(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    if channels is None or channels.dim != 1:
        raise UnclearError("normalizes along another dimension")
    if layer.num_groups == 1:
        slots.units.keep(channels.units, f"'{path}' takes its mean over all of them")
    whole_groups(slots.units, channels.units, layer.num_groups)
    return _norm(slots, path, layer, inputs, channels, outputs)


def _layer_norm(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    assert channels is not None
    if channels.dim >= inputs.dim() - len(layer.normalized_shape):
        slots.units.keep(channels.units, f"'{path}' takes its mean over all of them")
    return channels.vanishing(False)


def _slopes(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    if layer.num_parameters > 1:
        if channels is None or channels.dim != 1:
            raise UnclearError("has slopes along another dimension")
        slots.bind(_weight(path), 0, "norm", channels.units)
    return channels


def _encoder(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    """The heads and hidden units of a transformer's block; what it adds to its inputs is normalized as a whole."""
    if not _is_zero_kept(layer.activation) or {type(layer.linear1), type(layer.linear2)} != {nn.Linear}:
        raise UnclearError("has replaced layers, or an activation that may not be zero for zeros")
    if channels is not None:
        slots.units.keep(channels.units, f"'{path}' takes its mean over all of them")
    if rule_of(layer.self_attn) is multihead:
        multihead(slots, f"{path}.self_attn".lstrip("."), layer.self_attn, [inputs] * 3)
    first, second = f"{path}.linear1".lstrip("."), f"{path}.linear2".lstrip(".")
    units = made(slots, first, 0)
    places = inputs.numel() / inputs.shape[-1] / SAMPLES
    slots.multiplied(_weight(first), places)
    slots.multiplied(_weight(second), places)
    slots.bind(_weight(second), 1, "input", units)
    return None


def _is_zero_kept(activation: Any) -> bool:
    name = getattr(activation, "__name__", type(activation).__name__)
    return name.lower() in SAME


def _encoders(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    for number, block in enumerate(layer.layers):
        _encoder(slots, f"{path}.layers.{number}".lstrip("."), block, inputs, channels, outputs)
    return None


def _recurrent(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Any
) -> tuple[Channels, Any]:
    """The hidden units, which all layers and directions have the same number of, so that they go together."""
    if layer.proj_size or not layer.bias or inputs.dim() != 3:
        raise UnclearError("has a projection, no bias, or no batch")
    gates = len(layer.weight_hh_l0) // layer.hidden_size
    units = slots.made_by(_weight(path, "weight_hh_l0"), 1)
    both = np.tile(units, 2 if layer.bidirectional else 1)
    places = inputs.numel() / inputs.shape[-1] / SAMPLES
    for name, _ in layer.named_parameters():
        slots.bind(_weight(path, name), 0, "output", np.tile(units, gates), rows=gates)
        if name.startswith("weight_ih_l0"):
            read(slots, _weight(path, name), 1, channels, 2)
        elif name.startswith("weight_ih"):
            slots.bind(_weight(path, name), 1, "input", both)
        elif name.startswith("weight_hh"):
            slots.bind(_weight(path, name), 1, "input", units)
        if name.startswith("weight"):
            slots.multiplied(_weight(path, name), places)
    state = Channels(2, units)
    return Channels(2, both), (state, state) if isinstance(layer, nn.LSTM) else state


def _same(
    slots: Slots, path: str, layer: nn.Module, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    return channels


def _shifted(
    slots: Slots, path: str, layer: nn.Module, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    return None if channels is None else channels.vanishing(False)


def _pool(
    slots: Slots, path: str, layer: nn.Module, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    assert channels is not None
    result = pooled(POOLS[type(layer).__name__.lower()], channels, inputs)
    if result is None or not isinstance(outputs, Tensor):
        raise UnclearError("pools the channels themselves")
    return result


def _flatten(
    slots: Slots, path: str, layer: Any, inputs: Tensor, channels: Channels | None, outputs: Tensor
) -> Channels | None:
    assert channels is not None
    result = reshaped(channels, inputs.shape, outputs.shape)
    if result is None:
        raise UnclearError("merges channels with samples")
    return result


METHODS = ("forward", "_conv_forward")

MAKERS: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    nn.Linear: _linear,
    nn.TransformerEncoderLayer: _encoder,
    nn.TransformerEncoder: _encoders,
    **dict.fromkeys((nn.LSTM, nn.GRU, nn.RNN), _recurrent),
}
"""Rules of layers that have channels of their own; they apply whatever comes in."""

PASSING: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _norm),
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.PReLU: _slopes,
    nn.Flatten: _flatten,
    **{kind: _same for name, kind in vars(nn).items() if name.lower() in SAME and isinstance(kind, type)},
    **{kind: _shifted for name, kind in vars(nn).items() if name.lower() in SHIFTS and isinstance(kind, type)},
    **{kind: _pool for name, kind in vars(nn).items() if name.lower() in POOLS and isinstance(kind, type)},
}
"""Rules of layers that matter only where channels come in."""


def kind_of(layer: nn.Module) -> type[nn.Module] | None:
    """Return the class whose rule applies: the layer's, or the one that it inherits its `forward` from."""
    for kind in type(layer).__mro__:
        if kind in MAKERS or kind in PASSING:
            own, inherited = ([getattr(each, name, None) for name in METHODS] for each in (type(layer), kind))
            return kind if own == inherited else None
    return None
