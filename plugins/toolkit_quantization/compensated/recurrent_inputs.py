"""What recurrent layers multiply their weights by: the inputs of each step, and the states before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

Inputs = Tensor | PackedSequence


def cell_inputs(inputs: Tensor, state: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield what a cell multiplies by its two weights in one call, each (1, samples, inputs)."""
    yield "weight_ih", inputs.reshape(1, -1, inputs.shape[-1])
    state = state[0] if isinstance(state, tuple) else state
    if state is not None:
        yield "weight_hh", state.reshape(1, -1, state.shape[-1])


def recurrent_inputs(layer: nn.RNNBase, inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    """Yield what a stack of recurrent layers multiplies by its weights, each (1, samples, inputs).

    The state before the first step of a sequence, mostly zero, is left out.
    """
    for number in range(layer.num_layers):
        outputs = single(layer, number)(inputs)[0]
        states = _padded(outputs, layer).unflatten(2, (-1, layer.hidden_size)).unbind(2)
        counts = _lengths(outputs, states[0])
        for state, suffix in zip(states, ("", "_reverse"), strict=False):
            name = f"l{number}{suffix}"
            yield f"weight_ih_{name}", _steps(inputs, layer).unsqueeze(0)
            # The last step of a sequence has no step after it; in the reverse direction that is the first one.
            before = state[:, 1:] if suffix else state[:, :-1]
            exists = torch.arange(1, state.shape[1], device=state.device) < counts.unsqueeze(1)
            yield f"weight_hh_{name}", before[exists].unsqueeze(0)
        inputs = outputs


def single(layer: nn.RNNBase, number: int) -> nn.RNNBase:
    """Return one layer of a stack, with its weights."""
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    names = [name for name in layer._flat_weights_names if name.endswith(tuple(f"_l{number}{end}" for end in suffixes))]
    size = getattr(layer, f"weight_ih_l{number}").shape[1]
    settings = {"nonlinearity": layer.nonlinearity} if isinstance(layer, nn.RNN) else {}
    kind: Any = next(kind for kind in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(layer, kind))
    weight = getattr(layer, names[0])
    one: nn.RNNBase = kind(
        size,
        layer.hidden_size,
        bias=layer.bias,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
        device=weight.device,
        dtype=weight.dtype,
        **settings,
    )
    with torch.no_grad():
        for name in names:
            getattr(one, name.replace(f"_l{number}", "_l0")).copy_(getattr(layer, name))
    return one.eval()


def _padded(outputs: Inputs, layer: nn.RNNBase) -> Tensor:
    """The outputs as (sequences, steps, features)."""
    if isinstance(outputs, PackedSequence):
        return pad_packed_sequence(outputs, batch_first=True)[0]
    if outputs.dim() == 2:
        return outputs.unsqueeze(0)
    return outputs if layer.batch_first else outputs.transpose(0, 1)


def _lengths(outputs: Inputs, state: Tensor) -> Tensor:
    if isinstance(outputs, PackedSequence):
        return pad_packed_sequence(outputs, batch_first=True)[1].to(state.device)
    return torch.full((len(state),), state.shape[1], device=state.device)


def _steps(inputs: Inputs, layer: nn.RNNBase) -> Tensor:
    if isinstance(inputs, PackedSequence):
        return inputs.data
    return inputs.reshape(-1, inputs.shape[-1])
