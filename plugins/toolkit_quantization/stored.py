"""Layers of any kind that store their weights in fewer bits, and compute in float with the layer's own arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdRef

from toolkit import operators, stored_as
from toolkit_quantization.codecs import Encoded

# Decoded weights stay in memory up to this size: decoding at every call takes up to ten times as long as the layer
# itself at batch 1. For larger layers, memory matters more.
MAX_KEPT_BYTES = 2**26


@stored_as("quantization.Stored")
class Stored(nn.Module):
    """A layer with encoded weights, which it decodes on its first call or, if they are very large, on every call.

    Everything else of the layer (sizes, biases, methods) can be read as before; reading a weight decodes it. There is
    nothing to train, but gradients reach the inputs.
    """

    arithmetic = "float"  # of its products
    layer: nn.Module
    _kept: _Kept | None = None
    _floats_bytes: int | None = None

    def __init__(self, layer: nn.Module, replaces: str, values: Mapping[str, Encoded | Tensor]) -> None:
        """Take over a layer, and replace its parameters by encoded weights, and by buffers for its biases.

        Args:
            layer: becomes part of this one.
            replaces: the name of its class in `torch.nn`.
            values: what replaces each parameter, by its path within the layer: `weight_ih_l0`, `out_proj.weight`.
        """
        super().__init__()
        self.replaces = replaces
        self.names = list(values)
        for name, value in values.items():
            path, _, attribute = name.rpartition(".")
            _put(layer.get_submodule(path), attribute, value)
        self.layer = layer
        if isinstance(layer, nn.RNNBase):  # refresh its list of weights
            layer._init_flat_weights()

    @property
    def precision(self) -> str:
        """The dtype that the weights are stored in, such as `int8`."""
        return next(part.precision for part in self.modules() if isinstance(part, Encoded))

    def dense_weights(self) -> dict[str, Tensor]:
        """Return the layer's former parameters, in floats, by their paths within it."""
        return {name: _read(self.layer, name) for name in self.names}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._in_floats()(*args, **kwargs)

    def _in_floats(self) -> nn.Module:
        if self._floats_bytes is None:
            self._floats_bytes = _floats_bytes(self.layer)
        if self._floats_bytes > MAX_KEPT_BYTES or torch.compiler.is_compiling() or operators.is_exporting():
            return _decoded(self.layer)
        # Decode on first use, and again after a buffer was replaced or written to.
        state = [(WeakIdRef(buffer), buffer.is_inference() or buffer._version) for buffer in buffers_of(self.layer)]
        kept = self._kept
        if kept is None or kept.state != state:
            with torch.inference_mode(False), torch.no_grad():  # otherwise gradients could not pass later
                self._kept = kept = _Kept(state, _decoded(self.layer))
        return kept.layer

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_kept", "_floats_bytes")}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            layer = vars(self).get("_modules", {}).get("layer")
            if layer is None or (name.startswith("__") and name.endswith("__")):
                raise
        value = getattr(layer, name)
        return value() if isinstance(value, Encoded) else value


class _Kept:
    """A decoded layer, and the state of the buffers that it was decoded from; not a submodule, and not saved."""

    def __init__(self, state: list[Any], layer: nn.Module) -> None:
        self.state, self.layer = state, layer


@stored_as("quantization.StoredWeight")
class StoredWeight(Stored):
    """A layer that has one weight, `weight`, and at most a bias."""

    def dense_weight(self) -> Tensor:
        """Return the weight in floats."""
        return _read(self.layer, "weight")


@stored_as("quantization.StoredEmbedding")
class StoredEmbedding(StoredWeight):
    """An embedding that decodes only the entries that are looked up."""

    def forward(self, input: Tensor) -> Tensor:
        weight: Any = self.layer.weight
        rows: Tensor = weight(input.reshape(-1))
        return rows.reshape(*input.shape, rows.shape[1])


@stored_as("quantization.StoredEmbeddingBag")
class StoredEmbeddingBag(StoredWeight):
    """An embedding bag that decodes only the entries that are looked up."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        weight: Any = self.layer.weight
        found, places = input.unique(return_inverse=True)
        bag: Any = _with_tensors(self.layer, {"weight": weight(found)})
        if bag.padding_idx is not None:  # at the place where it is found; the one after the last is none of them
            bag.padding_idx = int((found < bag.padding_idx).sum()) if bag.padding_idx in found else None
        output: Tensor = bag(places.to(input.dtype), offsets, per_sample_weights)
        return output


def _put(module: nn.Module, attribute: str, value: Encoded | Tensor) -> None:
    del module._parameters[attribute]
    if isinstance(value, Encoded):
        module.add_module(attribute, value)
    else:
        module.register_buffer(attribute, value)


def _read(layer: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    value: Any = getattr(layer.get_submodule(path), attribute)
    tensor: Tensor = value() if isinstance(value, Encoded) else value
    return tensor


def _decoded(layer: nn.Module) -> nn.Module:
    """Return a second layer with the same parts, and floats in place of the encoded weights.

    The layer itself may be running in several threads, and must not hold the floats.
    """
    weights = {name: child for name, child in layer.named_children() if isinstance(child, Encoded)}
    parts = {name: _decoded(child) for name, child in layer.named_children() if name not in weights}
    return _with_tensors(layer, _floats(weights), parts)


def buffers_of(layer: nn.Module) -> Iterator[Tensor]:
    """Yield all buffers of a layer and its parts."""
    # `buffers()` takes longer than a small layer does.
    yield from (buffer for buffer in layer._buffers.values() if buffer is not None)
    for child in layer._modules.values():
        if child is not None:
            yield from buffers_of(child)


def _floats_bytes(layer: nn.Module) -> int:
    encoded = [part for part in layer.modules() if isinstance(part, Encoded)]
    return sum(prod(part.shape) * part.dtype.itemsize for part in encoded)


def _floats(weights: Mapping[str, Encoded]) -> dict[str, Tensor]:
    """Return encoded weights as floats, all in one block of memory.

    The allocator returns memory to the system beyond twice the largest block that was freed: with a block per weight,
    an LSTM of 5 MB spent 2 of its 12 ms per call on page faults.
    """
    sizes = [prod(weight.shape) for weight in weights.values()]
    if operators.is_exporting() or len({weight.dtype for weight in weights.values()}) != 1:
        return {name: weight() for name, weight in weights.items()}
    first = next(iter(weights.values()))
    device = next(first.buffers()).device
    pieces = torch.empty(sum(sizes), dtype=first.dtype, device=device).split(sizes)
    floats = {name: piece.view(weight.shape) for (name, weight), piece in zip(weights.items(), pieces, strict=True)}
    for name, weight in weights.items():
        weight.write(floats[name])
    return floats


def _with_tensors(layer: nn.Module, tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module] = {}) -> nn.Module:
    twin = object.__new__(type(layer))
    vars(twin).update(vars(layer))
    kept = {name: child for name, child in layer._modules.items() if name not in tensors}
    vars(twin).update(_buffers={**layer._buffers, **tensors}, _modules={**kept, **parts})
    return twin
