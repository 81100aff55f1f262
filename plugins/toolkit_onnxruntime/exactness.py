"""Whether this processor multiplies unsigned by signed bytes without an overflow."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

DEPTH = 64


@cache
def fast_products_are_exact() -> bool:
    """Return whether ONNX Runtime adds the largest products of bytes exactly on this machine.

    Without VNNI instructions, x86 adds two products of unsigned and signed bytes in 16 bits, which saturate:
    2 · 255 · 127 exceeds 32,767.
    """
    weight = np.full((DEPTH, 16), 127, np.int8)
    rows = np.full((4, DEPTH), 255, np.uint8)
    values = [
        helper.make_tensor_value_info("rows", TensorProto.UINT8, list(rows.shape)),
        helper.make_tensor_value_info("products", TensorProto.INT32, [4, 16]),
    ]
    node = helper.make_node("MatMulInteger", ["rows", "weight"], ["products"])
    graph = helper.make_graph([node], "exactness", values[:1], values[1:], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return bool((session.run(None, {"rows": rows})[0] == 255 * 127 * DEPTH).all())
