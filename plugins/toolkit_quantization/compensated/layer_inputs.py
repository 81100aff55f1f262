"""What a layer multiplies each of its weights by, computed from the arguments of a call.

Each piece is (groups, samples, inputs): the inputs of a weight's rows, in as many groups of rows as have inputs of
their own. Rows are flattened as they are stored, so that a convolution's inputs are patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit_quantization.compensated.attention_inputs import attention_inputs
from toolkit_quantization.compensated.recurrent_inputs import cell_inputs, recurrent_inputs

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
MAX_POSITIONS = 256  # of a sample that a convolution's patches are taken at

Piece = tuple[str, Tensor]  # the path of a weight within its layer, and some of its inputs


def layer_inputs(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Piece]:
    """Yield the inputs of the weights of a layer for which `why_nearest` is None."""
    if isinstance(layer, nn.MultiheadAttention):
        yield from attention_inputs(layer, args, kwargs)
        return
    inputs = args[0] if args else kwargs["input"]
    if isinstance(layer, nn.Linear):
        yield "weight", inputs.reshape(1, -1, layer.in_features)
    elif isinstance(layer, CONVOLUTIONS):
        for sample in _batched(inputs, layer):
            yield "weight", patches(sample.unsqueeze(0), layer)
    elif isinstance(layer, CELLS):
        yield from cell_inputs(inputs, args[1] if len(args) > 1 else kwargs.get("hx"))
    elif isinstance(layer, RECURRENT):
        yield from recurrent_inputs(layer, inputs)


def why_nearest(layer: nn.Module) -> str | None:
    """Return the reason why the weights of a layer are rounded to the nearest value, None if they need not be."""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return "it looks up weights, and multiplies none"
    if isinstance(layer, RECURRENT) and layer.proj_size:
        return "a recurrent layer with projections"
    known = (nn.Linear, *CONVOLUTIONS, *CELLS, *RECURRENT, nn.MultiheadAttention)
    return None if isinstance(layer, known) else f"{type(layer).__name__}: not a kind of layer that is compensated"


def patches(images: Tensor, layer: Any) -> Tensor:
    """Return what each output of a convolution is computed from: (groups, positions, inputs of a group).

    Args:
        images: (N, channels, …).
        layer: the convolution; at most 256 positions of each image are taken, evenly over all of them.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = F.pad(images, layer._reversed_padding_repeated_twice, mode)
    spatial = len(layer.kernel_size)
    for dimension in range(spatial):
        dilation, size = layer.dilation[dimension], layer.kernel_size[dimension]
        windows = windows.unfold(2 + dimension, dilation * (size - 1) + 1, layer.stride[dimension])[..., ::dilation]
    windows = windows.unflatten(1, (layer.groups, -1)).movedim(2, 2 + spatial)
    # (N, groups, positions, …, channels, window, …)
    positions = windows.shape[2 : 2 + spatial].numel()
    count = min(positions, MAX_POSITIONS)
    chosen = torch.linspace(0, positions - 1, count, dtype=torch.float64, device=images.device).long()
    places = torch.unravel_index(chosen, windows.shape[2 : 2 + spatial])
    taken = windows[:, :, *places]  # (N, groups, positions, channels, window, …)
    return taken.flatten(3).transpose(0, 1).flatten(1, 2)


def _batched(inputs: Tensor, layer: Any) -> Tensor:
    return inputs if inputs.dim() == 2 + len(layer.kernel_size) else inputs.unsqueeze(0)
