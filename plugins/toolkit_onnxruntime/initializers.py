"""Numbers that are stored in an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def add_initializer(graph: Any, name: str, array: np.ndarray) -> ir.Value:
    """Store an array in a graph, and return the value that stands for it."""
    tensor = ir.tensor(array)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
