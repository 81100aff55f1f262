"""Operators of the toolkit in those of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnxscript import opset21 as op

import toolkit.operators  # noqa: F401  # registers them

ZERO_POINT = onnx.helper.make_tensor("zero_point", onnx.TensorProto.UINT8, [], [128])
UINT8, FLOAT = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
SMALLEST = 127 * 1.1754943508222875e-38


def dequantize(values: Any, scale: Any) -> Any:
    """Store the integers, and multiply them with their scales where they are used."""
    return op.DequantizeLinear(values, scale, axis=0)


def int8_linear(inputs: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    """Round each row with its own scale, and multiply integers: unsigned ones, for which there are fast kernels."""
    largest = op.ReduceMax(op.Abs(inputs), op.Constant(value_ints=[-1]), keepdims=1)
    row_scale = op.Div(op.Max(largest, op.Constant(value_float=SMALLEST)), op.Constant(value_float=127.0))
    shifted = op.Add(op.Round(op.Div(inputs, row_scale)), op.Constant(value_float=128.0))
    rows = op.Cast(shifted, to=UINT8)
    products = op.MatMulInteger(rows, op.Transpose(weight, perm=[1, 0]), op.Constant(value=ZERO_POINT))
    outputs = op.Mul(op.Mul(op.Cast(products, to=FLOAT), scale), row_scale)
    return outputs if bias is None else op.Add(outputs, bias)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.toolkit.dequantize.default: dequantize,
    torch.ops.toolkit.int8_linear.default: int8_linear,
}
