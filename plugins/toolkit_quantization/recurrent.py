"""Recurrent layers with integer products: an LSTM or a GRU, of whose stacked layers each multiplies bytes or floats.

Inputs and states are rounded to bytes with one scale for the whole batch, because the fast kernels do so: those of
PyTorch, and the operator of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from toolkit import TechniqueError, masks, operators, stored_as
from toolkit_quantization import recurrent_kernels
from toolkit_quantization.codecs import Encoded, Int8
from toolkit_quantization.int8 import MAX_PACKED_INPUTS, is_transformed, quantize_per_channel
from toolkit_quantization.kernels import BufferCache
from toolkit_quantization.static.weights import quantize_without_overflow
from toolkit_quantization.stored import Stored, buffers_of

KINDS = (nn.LSTM, nn.GRU)


@stored_as("quantization.Int8Recurrent")
class Int8Recurrent(Stored):
    """An LSTM or a GRU in int8, with integer products in some of its stacked layers; no gradient.

    The result of a sample depends on its batch, because all samples of a batch share the scales of activations.
    """

    rounds_activations = True  # an exported file may differ by some last bits of each step
    layer: Any
    _cells: BufferCache | None = None

    def __init__(
        self, layer: nn.Module, replaces: str, values: Mapping[str, Encoded | Tensor], integer: Collection[int]
    ) -> None:
        """Take over a layer as `Stored` does; `integer` are the stacked layers with integer products, from 0."""
        super().__init__(layer, replaces, values)
        self.integer, stacked = sorted(integer), layer.num_layers
        self.arithmetic = "int8" if len(self.integer) == stacked else f"int8 in {len(self.integer)} of {stacked} layers"

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(input, Tensor):
            raise TypeError("a recurrent layer with int8 products takes no packed sequence; give it float arithmetic")
        layer = self.layer
        is_alone, batch_first = input.dim() == 2, layer.batch_first and input.dim() == 3
        steps = input.unsqueeze(1) if is_alone else input.transpose(0, 1) if batch_first else input
        states = self._first_states(steps, hx, is_alone)
        outputs, states = self._stacked(steps.detach().float(), states)
        outputs, *states = (each.to(input.dtype) for each in (outputs, *states))
        if is_alone:
            outputs, *states = (each.squeeze(1) for each in (outputs, *states))
        outputs = outputs.transpose(0, 1) if batch_first else outputs
        return outputs, tuple(states) if self.replaces == "LSTM" else states[0]

    def _first_states(self, steps: Tensor, hx: Any, is_alone: bool) -> list[Tensor]:
        """Return what the states begin with, (stacked · directions, N, H) each: hidden, and cell for an LSTM."""
        layer = self.layer
        count = 2 if self.replaces == "LSTM" else 1
        if hx is None:
            zeros = steps.new_zeros(layer.num_layers * self._directions, steps.shape[1], layer.hidden_size)
            return [zeros.float()] * count
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        return [(state.unsqueeze(1) if is_alone else state).detach().float() for state in states]

    @property
    def _directions(self) -> int:
        return 2 if self.layer.bidirectional else 1

    def _stacked(self, values: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        cells = self._packed_cells() if values.is_cpu and not _is_traced() else None
        if cells is not None and self.arithmetic == "int8":  # one call for all layers: each call costs time
            every = [cell for layer in cells.values() for cell in layer]
            outputs, *after = recurrent_kernels.run(self.replaces, values, states, every, len(cells))
            return outputs, after
        last: list[list[Tensor]] = []
        for number in range(self.layer.num_layers):
            before = [state[self._directions_of(number)] for state in states]
            if number not in self.integer:
                values, *after = self._with_floats(number, values, before)
            elif cells is None:
                values, *after = self._in_plain_operations(number, values, before)
            else:
                values, *after = recurrent_kernels.run(self.replaces, values, before, cells[number])
            last.append(after)
        return values, [torch.cat(each) for each in zip(*last, strict=True)]

    def _with_floats(self, number: int, values: Tensor, states: list[Tensor]) -> Any:
        layer: Any = self._in_floats()
        names = layer._all_weights[self._directions_of(number)]
        weights = [getattr(layer, name).float() for each in names for name in each]
        how: Any = (weights, layer.bias, 1, 0.0, False, layer.bidirectional, False)
        return torch.lstm(values, states, *how) if self.replaces == "LSTM" else torch.gru(values, states[0], *how)

    def _in_plain_operations(self, number: int, values: Tensor, states: list[Tensor]) -> Any:
        parameters = [tensor for direction in self._tensors(number) for tensor in direction]
        if self.replaces == "LSTM":
            return operators.int8_lstm(values, *states, parameters)
        if operators.is_exporting():
            what = "a GRU with int8 products can only be run by PyTorch"
            raise TechniqueError(f"{what}; set 'arithmetic' of this layer to 'float'")
        return recurrent_kernels.gru(values, states[0], parameters)

    def _packed_cells(self) -> dict[int, list[Any]] | None:
        """Return the weights of each stacked layer for the kernels, by direction; None if the kernels are not exact."""
        buffers = {str(number): buffer for number, buffer in enumerate(buffers_of(self.layer))}
        if self._cells is None or not self._cells.is_of(buffers):
            made = recurrent_kernels.packed({number: self._tensors(number) for number in self.integer})
            self._cells = BufferCache(buffers, made)
        cells: dict[int, list[Any]] | None = self._cells.made
        return cells

    def _directions_of(self, number: int) -> slice:
        return slice(number * self._directions, (number + 1) * self._directions)

    def _tensors(self, number: int) -> list[list[Tensor]]:
        """Return for each direction weight and scale for the inputs, both for the states, and the biases, if any."""
        return [self._of_direction(names) for names in self.layer._all_weights[self._directions_of(number)]]

    def _of_direction(self, names: Sequence[str]) -> list[Tensor]:
        inputs, states, *biases = (getattr(self.layer, name) for name in names)
        scaled = (inputs.values, inputs.scale.float(), states.values, states.scale.float())
        return [*scaled, *(bias.float() for bias in biases)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_cells"}


def _is_traced() -> bool:
    return operators.is_exporting() or is_compiling() or is_transformed()


def can_multiply(module: nn.Module) -> bool:
    """Return whether a layer for which `layers.why_float` is None has integer products."""
    if not isinstance(module, nn.LSTM | nn.GRU) or module.proj_size:
        return False
    return max(module.input_size, 2 * module.hidden_size) <= MAX_PACKED_INPUTS


def multiplying(module: nn.Module, overflow_safe: bool, integer: Collection[int] | None = None) -> Int8Recurrent:
    """Return the layer with integer products in some stacked layers.

    Args:
        module: a layer for which `can_multiply` is true, which does not change.
        overflow_safe: whether their weights are rounded so that sums are exact on processors without VNNI.
        integer: the stacked layers, from 0; all of them by default.
    """
    layer: Any = module
    integer = range(layer.num_layers) if integer is None else integer
    rounding = quantize_without_overflow if overflow_safe else quantize_per_channel
    values: dict[str, Encoded | Tensor] = {}
    for weight in masks.named_weights(module):
        rows = weight.value
        if rows.dim() == 1:
            values[weight.path] = rows.clone()
        else:
            is_integer = _stacked_layer(weight.path) in integer
            values[weight.path] = Int8(rows, rounding if is_integer else quantize_per_channel)
    kind = "LSTM" if isinstance(module, nn.LSTM) else "GRU"
    return Int8Recurrent(masks.folded(module), kind, values, integer)


def _stacked_layer(name: str) -> int:
    """Return the number in a name such as `weight_ih_l1_reverse`."""
    return int(name.removesuffix("_reverse").rpartition("_l")[2])
