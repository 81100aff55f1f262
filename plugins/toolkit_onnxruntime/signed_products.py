"""Products of signed integers, which the file computes in the fastest way that is exact where it is opened.

Without VNNI, x86 adds two products of unsigned and signed bytes in 16 bits. Bytes up to 255 overflow there, since
2 · 255 · 127 exceeds 32,767; those up to 127 do not. So the file multiplies the largest bytes when it is opened: where
the sums are right, one product of bytes around 128 follows, elsewhere one of positive and negative values apart. ONNX
Runtime computes this condition once, and drops the branch that is not taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import values

DEPTH, WIDTH = 64, 16  # as large as the kernels for large matrices need
DOMAIN = "toolkit"
_TYPES = {"rows": "tensor(float)", "row_scale": "tensor(float)", "columns": "tensor(int8)"}
_SCHEMA = onnx.defs.OpSchema(
    *("SignedProducts", DOMAIN, 1),
    inputs=[onnx.defs.OpSchema.FormalParameter(name, kind) for name, kind in _TYPES.items()],
    outputs=[onnx.defs.OpSchema.FormalParameter("products", "tensor(int32)")],
)
signed_products = values.Op(values.Opset(DOMAIN, 1), _SCHEMA.name, _SCHEMA)  # until `choose_products`


def choose_products(model: ir.Model) -> None:
    """Put a choice between two ways of computing in place of each node that multiplies signed integers."""
    nodes = [node for node in model.graph.all_nodes() if (node.domain, node.op_type) == (DOMAIN, _SCHEMA.name)]
    if not nodes:
        return
    tape = ir.tape.Tape()
    condition = _is_exact(tape)
    model.graph.insert_before(model.graph[0], tape.nodes)
    for node in nodes:
        branches = [
            ir.AttrGraph("then_branch", _branch(node, _around_128)),
            ir.AttrGraph("else_branch", _branch(node, _by_sign)),
        ]
        choice = ir.Node("", "If", [condition], branches, outputs=[ir.Value(name=node.outputs[0].name)])
        choice.metadata_props.update(node.metadata_props)
        graph = node.graph
        assert graph is not None
        ir.convenience.replace_nodes_and_values(graph, node, [node], [choice], node.outputs, choice.outputs)
    model.opset_imports.pop(DOMAIN, None)


def _is_exact(tape: Any) -> ir.Value:
    """Return whether this processor adds the largest products of bytes exactly."""
    sizes = [_constant(tape, np.array(shape)) for shape in ((4, DEPTH), (DEPTH, WIDTH))]
    largest = [ir.tensor(np.array([255], np.uint8)), ir.tensor(np.array([127], np.int8))]
    filled = [tape.op("ConstantOfShape", [size], {"value": value}) for size, value in zip(sizes, largest, strict=True)]
    least = tape.op("ReduceMin", [tape.op("MatMulInteger", filled)], {"keepdims": 0})
    return tape.op("Equal", [least, _constant(tape, np.array(255 * 127 * DEPTH, np.int32))])


def _constant(tape: Any, value: Any) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(value)})


def _branch(node: ir.Node, compute: Callable[..., ir.Value]) -> ir.Graph:
    tape = ir.tape.Tape()
    products = compute(tape, *node.inputs)
    for number, value in enumerate(value for inner in tape.nodes for value in inner.outputs):
        value.name = f"{node.outputs[0].name}_{compute.__name__}_{number}"
    for inner in tape.nodes:
        inner.metadata_props.update(node.metadata_props)
    return ir.Graph([], [products], nodes=tape.nodes, name=compute.__name__)


def _around_128(tape: Any, rows: ir.Value, row_scale: ir.Value, columns: ir.Value) -> ir.Value:
    zero = _constant(tape, np.array(128, np.uint8))
    zeros = tape.op("Expand", [zero, tape.op("Shape", [row_scale])])
    quantized = tape.op("QuantizeLinear", [rows, row_scale, zeros], {"axis": 0})
    return tape.op("MatMulInteger", [quantized, columns, zero])


def _by_sign(tape: Any, rows: ir.Value, row_scale: ir.Value, columns: ir.Value) -> ir.Value:
    settings = {"axis": 0, "output_dtype": int(ir.DataType.UINT8)}  # negative values become 0
    parts = [tape.op("QuantizeLinear", [part, row_scale], settings) for part in (rows, tape.op("Neg", [rows]))]
    products = tape.op("MatMulInteger", [tape.op("Concat", parts, {"axis": 0}), columns])
    positive, negative = tape.op_multi_out("Split", [products], {"axis": 0, "num_outputs": 2}, num_outputs=2)
    return tape.op("Sub", [positive, negative])
