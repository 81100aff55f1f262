"""PyTorch's loops over steps that multiply bytes, on packed weights, and the same for GRUs in plain operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from toolkit.operators import by_direction, byte_products
from toolkit_quantization import kernels
from toolkit_quantization.static.weights import overflows

HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines
IS_EXACT = HAS_FBGEMM and kernels.is_exact(kernels.fbgemm_packed)


def packed(cells: Mapping[int, Sequence[Sequence[Tensor]]]) -> dict[int, list[Any]] | None:
    """Return the cells of each layer for `run`; None where PyTorch has no kernel, or one whose sums overflow.

    The cell of a direction has a weight (rows, in) int8 and its scale (rows,) for the inputs, both for the states, and
    perhaps a bias (rows,) for the inputs and one for the states.
    """
    weights = [cell[place] for layer in cells.values() for cell in layer for place in (0, 2)]
    if not HAS_FBGEMM or not (IS_EXACT or not any(map(overflows, weights))):
        return None
    return {number: [_packed(*cell) for cell in layer] for number, layer in cells.items()}


def _packed(weight: Tensor, scale: Tensor, state_weight: Tensor, state_scale: Tensor, *biases: Tensor) -> Any:
    biases = biases or (scale.new_zeros(len(scale)), scale.new_zeros(len(scale)))
    inputs = kernels.linear_prepack(weight, scale, biases[0], engine="fbgemm")
    states = kernels.linear_prepack(state_weight, state_scale, biases[1], engine="fbgemm")
    all_bits = False  # not only 7
    return torch.ops.quantized.make_quantized_cell_params_dynamic(inputs, states, *biases, all_bits)


def run(
    kind: str, inputs: Tensor, states: Sequence[Tensor], cells: Sequence[Any], layers: int = 1
) -> tuple[Tensor, ...]:
    """Apply layers to inputs (steps, N, in), by their cells: one for each layer, or one for each of its directions.

    Returns:
        Outputs (steps, N, directions · H), and the last states (layers · directions, N, H): hidden, and cell for an
        LSTM.
    """
    is_bidirectional = len(cells) == 2 * layers
    how = (cells, True, layers, 0.0, False, is_bidirectional, False)  # biases, …, dropout, training, …, batch first
    if kind == "LSTM":
        return torch.quantized_lstm(inputs, tuple(states), *how, dtype=torch.qint8, use_dynamic=True)
    return torch.quantized_gru(inputs, states[0], *how)


def gru(inputs: Tensor, hidden: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Apply one layer of a GRU, as `toolkit.operators.int8_lstm` does for an LSTM."""
    outputs, last = [], []
    for direction, (weight, scale, state_weight, state_scale, *biases) in enumerate(by_direction(hidden, parameters)):
        steps = byte_products(inputs.flip(0) if direction else inputs, weight, scale)
        state, states = hidden[direction], []
        for step in sum(biases[:1], steps):
            old = sum(biases[1:], byte_products(state, state_weight, state_scale)).chunk(3, dim=1)
            reset, update, new = step.chunk(3, dim=1)
            new = (new + (reset + old[0]).sigmoid() * old[2]).tanh()
            state = new + (update + old[1]).sigmoid() * (state - new)
            states.append(state)
        outputs.append(torch.stack(states[::-1] if direction else states))
        last.append(state)
    return torch.cat(outputs, dim=2), torch.stack(last)
