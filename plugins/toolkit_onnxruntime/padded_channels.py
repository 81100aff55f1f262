"""Convolutions of three channels in integers: a fourth one of zeros makes them faster, since kernels read four bytes.

The sums are the same integers: the weights of the fourth channel are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from toolkit_onnxruntime.initializers import add_initializer

CHANNELS, PADDED_CHANNELS = 3, 4  # as photos have them


def pad_channels(model: ir.Model) -> None:
    """Let each convolution of three channels, of which inputs and weights are integers, multiply four."""
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Conv" and _has_integers(node) and _is_narrow(node):
            _pad(node)


def _has_integers(conv: ir.Node) -> bool:
    """Return whether a convolution decodes its inputs, which have one zero point, and a weight that is stored."""
    decoding: list[Any] = [None if value is None else value.producer() for value in conv.inputs[:2]]
    if any(node is None or node.op_type != "DequantizeLinear" or len(node.inputs) != 3 for node in decoding):
        return False
    is_rounded = decoding[0].inputs[0].producer() is not None
    return is_rounded and decoding[1].inputs[0].const_value is not None


def _is_narrow(conv: Any) -> bool:
    group = conv.attributes.get("group")
    return _numbers(conv).shape[1] == CHANNELS and (group is None or group.as_int() == 1)


def _numbers(conv: Any) -> np.ndarray:
    """Return the integers of a convolution's weight, (outputs, channels, …)."""
    numbers: np.ndarray = conv.inputs[1].producer().inputs[0].const_value.numpy()
    return numbers


def _pad(conv: Any) -> None:
    inputs, weight = (value.producer() for value in conv.inputs[:2])
    numbers, tape = _numbers(conv), ir.tape.Tape()
    zeros = np.zeros((len(numbers), PADDED_CHANNELS - CHANNELS, *numbers.shape[2:]), numbers.dtype)
    stored = add_initializer(conv.graph, f"{conv.name}_weight", np.concatenate([numbers, zeros], axis=1))
    before_and_after = np.zeros((2, numbers.ndim), np.int64)
    before_and_after[1, 1] = zeros.shape[1]
    widths = add_initializer(conv.graph, f"{conv.name}_padding", before_and_after.flatten())
    integers, scale, zero_point = inputs.inputs
    padded = tape.op("Pad", [integers, widths, zero_point])
    decoded = [
        tape.op("DequantizeLinear", [padded, scale, zero_point], inputs.attributes),
        tape.op("DequantizeLinear", [stored, *weight.inputs[1:]], weight.attributes),
    ]
    for node in tape.nodes:
        node.metadata_props.update(conv.metadata_props)
    conv.graph.insert_before(conv, tape.nodes)
    for place, value in enumerate(decoded):
        conv.replace_input_with(place, value)
