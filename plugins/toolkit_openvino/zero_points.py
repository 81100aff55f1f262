"""Zero points of activations, moved out of the products and into the biases, where they cost nothing.

Bytes with a zero point are summed by OpenVINO twice: with the weights, and for the zero point. But
`(bytes - zero) @ weights` is `bytes @ weights - zero * sum(weights)`, whose last term is a constant unless a layer pads
its inputs with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from openvino import opset15 as op

LEVELS = 256  # of bytes with a zero point
MAX_DEPTH = 8  # operations that compute a bias from what is stored
SELECTING = ("MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # operations that move or select numbers


def move_zero_points(model: openvino.Model) -> None:
    """Change a model in place, wherever only such layers use the rounded numbers."""
    _drop_repeated(model)
    for node in filter(_is_rounding, model.get_ordered_ops()):
        low = _limits(node)[0]
        layers = _layers(node.output(0))
        if low < 0 and layers and None not in layers:
            _shift(node, low)
            for layer in layers:
                _add(layer, low)
    model.validate_nodes_and_infer_types()


def _drop_repeated(model: openvino.Model) -> None:
    """Remove roundings of what is rounded already, so that nothing stands between a rounding and the layers behind."""
    for node in filter(_is_rounding, model.get_ordered_ops()):
        if _is_same_rounding(_first(node.input_value(0).get_node()), node):
            node.output(0).replace(node.input_value(0))


def _is_rounding(node: Any) -> bool:
    if node.get_type_name() != "FakeQuantize" or node.get_attributes()["levels"] != LEVELS:
        return False
    return all(node.input_value(place).get_node().get_type_name() == "Constant" for place in range(1, 5))


def _limits(node: Any) -> list[np.float32]:
    return [node.input_value(place).get_node().data.ravel()[0] for place in (1, 2)]


def _shift(node: Any, low: np.float32) -> None:
    """Let a rounding return numbers from zero, and receive them, too, where a bias is added before it."""
    high = _limits(node)[1]
    ends = {3: np.float32(0), 4: high - low}
    source = node.input_value(0)
    bias = _bias(source.get_node()) if len(source.get_target_inputs()) == 1 else None
    if bias is not None:
        bias.replace_source_output(op.add(bias.get_source_output(), op.constant(-low)).output(0))
        ends |= {1: ends[3], 2: ends[4]}
    for place, end in ends.items():
        shape = node.input_value(place).get_shape()
        node.input(place).replace_source_output(op.constant(np.full(shape, end, np.float32)).output(0))


def _first(node: Any) -> Any:
    """Return the operation whose results are moved or selected by the operations after it."""
    while node.get_type_name() in SELECTING:
        node = node.input_value(0).get_node()
    return node


def _is_same_rounding(before: Any, node: Any) -> bool:
    return _is_rounding(before) and _limits(before) == _limits(node)


def _layers(output: Any) -> list[Any]:
    """Return the layers that use numbers, with None for other operations."""
    found: list[Any] = []
    for port in output.get_target_inputs():
        node = port.get_node()
        if node.get_type_name() in SELECTING and port.get_index() == 0:
            found += _layers(node.output(0))
        else:
            found.append(node if port.get_index() == 0 and _can_shift(node) else None)
    return found


def _can_shift(node: Any) -> bool:
    """Return whether a layer multiplies by constant int8 weights, and adds no zeros to its inputs."""
    kind, attributes = node.get_type_name(), node.get_attributes()
    if kind == "Convolution":
        is_unpadded = attributes["auto_pad"] == "explicit" and not any(
            attributes["pads_begin"] + attributes["pads_end"]
        )
    else:
        is_unpadded = kind == "MatMul" and attributes["transpose_b"] and not attributes["transpose_a"]
    return is_unpadded and _weights(node) is not None


def _weights(node: Any) -> tuple[Any, Any] | None:
    """Return the int8 weights (out, …) of a layer and their scales (out, 1, …)."""
    product = node.input_value(1).get_node()
    if product.get_type_name() != "Multiply":
        return None
    integers, scale = (product.input_value(place).get_node() for place in (0, 1))
    values = integers.input_value(0).get_node() if integers.get_type_name() == "Convert" else integers
    if {values.get_type_name(), scale.get_type_name()} != {"Constant"} or values.get_element_type() != openvino.Type.i8:
        return None
    return values.data, scale.data


def _add(layer: Any, low: np.float32) -> None:
    """Add to the outputs of a layer what its inputs lack, which are larger by `-low` now."""
    weights = _weights(layer)
    assert weights is not None
    values, scale = weights
    sums = values.reshape(len(values), -1).sum(1, dtype=np.int64) * scale.ravel().astype(np.float64)
    shape = (1, -1, *[1] * (values.ndim - 2)) if layer.get_type_name() == "Convolution" else (-1,)
    term = op.constant((sums * np.float64(low)).astype(np.float32).reshape(shape))
    users = list(layer.output(0).get_target_inputs())
    bias = _bias(users[0].get_node()) if len(users) == 1 else None
    if bias is not None:
        bias.replace_source_output(op.add(bias.get_source_output(), term).output(0))
        return
    outputs = op.add(layer, term).output(0)
    for user in users:
        user.replace_source_output(outputs)


def _bias(node: Any) -> Any:
    """Return where a constant enters an addition; None for anything else."""
    if node.get_type_name() != "Add":
        return None
    return next((port for port in node.inputs() if _is_constant(port.get_source_output().get_node())), None)


def _is_constant(node: Any, depth: int = MAX_DEPTH) -> bool:
    if depth == 0 or node.get_type_name() == "Parameter":
        return False
    return all(_is_constant(value.get_node(), depth - 1) for value in node.input_values())
