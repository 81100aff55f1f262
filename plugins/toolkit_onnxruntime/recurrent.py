"""LSTM layers of integers, as the operator that ONNX Runtime has for them, with its order of gates and axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import values

from toolkit_onnxruntime.initializers import add_initializer
from toolkit_onnxruntime.signed_products import DOMAIN

MICROSOFT = "com.microsoft"
MAX_PARAMETERS = 6  # of one direction: two weights with a scale each, and two biases
GATES = (0, 3, 1, 2)  # PyTorch's input, forget, cell and output gate in the order of ONNX
_FLOAT, _ANY = "tensor(float)", onnx.defs.OpSchema.FormalParameterOption.Variadic
_SCHEMA = onnx.defs.OpSchema(
    *("Int8LSTM", DOMAIN, 1),
    inputs=[
        *(onnx.defs.OpSchema.FormalParameter(name, _FLOAT) for name in ("inputs", "hidden", "cell")),
        onnx.defs.OpSchema.FormalParameter("parameters", "T", param_option=_ANY, is_homogeneous=False),
    ],
    outputs=[onnx.defs.OpSchema.FormalParameter(name, _FLOAT) for name in ("outputs", "last", "last_cell")],
    type_constraints=[("T", ["tensor(int8)", _FLOAT], "")],
)
_lstm_of_torch = values.Op(values.Opset(DOMAIN, 1), _SCHEMA.name, _SCHEMA)  # until `write_lstms`


def int8_lstm(inputs: Any, hidden: Any, cell: Any, parameters: Sequence[Any]) -> Any:
    """Keep the layer as a single node, because its weights are only known when the graph is complete."""
    return _lstm_of_torch(inputs, hidden, cell, *parameters)


def write_lstms(model: ir.Model) -> None:
    """Put `DynamicQuantizeLSTM` in place of each layer of an LSTM that multiplies integers."""
    nodes = [node for node in model.graph if node.op_type == _SCHEMA.name and node.domain == DOMAIN]
    for number, node in enumerate(nodes):
        tape = ir.tape.Tape()
        results = _lstm(model.graph, tape, node, f"int8_lstm_{number}")
        for inner in tape.nodes:
            inner.metadata_props.update(node.metadata_props)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, node.outputs, results)
    if nodes:
        model.opset_imports[MICROSOFT] = 1
        model.opset_imports.pop(DOMAIN, None)


def _lstm(graph: Any, tape: Any, node: ir.Node, name: str) -> list[ir.Value]:
    inputs, hidden, cell, *parameters = node.inputs
    arrays = [value.const_value.numpy() for value in parameters if value is not None and value.const_value is not None]
    directions = 2 if len(arrays) > MAX_PARAMETERS else 1
    stored = [
        add_initializer(graph, f"{name}_{number}", array) for number, array in enumerate(_arranged(arrays, directions))
    ]
    weight, state_weight, bias, *scales = stored
    outputs, *last = tape.op_multi_out(
        "DynamicQuantizeLSTM",
        [inputs, weight, state_weight, bias, None, hidden, cell, None, *scales],
        {"hidden_size": arrays[2].shape[1], "direction": "bidirectional" if directions == 2 else "forward"},
        domain=MICROSOFT,
        num_outputs=3,
    )
    # (steps, directions, N, H), where PyTorch has (steps, N, directions · H)
    moved = tape.op("Transpose", [outputs], {"perm": [0, 2, 1, 3]})
    shape = tape.op("Constant", [], {"value": ir.tensor(np.array([0, 0, -1]))})
    return [tape.op("Reshape", [moved, shape]), *last]


def _arranged(parameters: list[np.ndarray], directions: int) -> list[np.ndarray]:
    """Return both weights, the biases, and scale and zero point of both weights, of all directions each."""
    kinds = [np.stack(each) for each in zip(*np.split(np.arange(len(parameters)), directions), strict=True)]
    weight, scale, state_weight, state_scale, *biases = (
        np.stack([_of_onnx(parameters[place]) for place in places]) for places in kinds
    )
    biases = biases or [np.zeros_like(scale)] * 2
    weights = [np.ascontiguousarray(each.transpose(0, 2, 1)) for each in (weight, state_weight)]
    zeros = np.zeros(scale.shape, np.int8)
    return [*weights, np.concatenate(biases, axis=1), scale, zeros, state_scale, zeros]


def _of_onnx(rows: np.ndarray) -> np.ndarray:
    """Return rows (4 H, …) with the gates in the order of ONNX."""
    return rows.reshape(4, -1, *rows.shape[1:])[list(GATES)].reshape(rows.shape)
