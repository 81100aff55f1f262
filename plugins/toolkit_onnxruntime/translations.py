"""Operators of the toolkit in those of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import onnx
from onnxscript import opset21

from toolkit import operators

op: Any = opset21  # its annotations do not know that a constant has a type
ZERO_POINT = onnx.helper.make_tensor("zero_point", onnx.TensorProto.UINT8, [], [128])
SHIFT = onnx.helper.make_tensor("shift", onnx.TensorProto.INT32, [], [128])
FIFTEEN = onnx.helper.make_tensor("fifteen", onnx.TensorProto.UINT8, [], [15])
FOUR = onnx.helper.make_tensor("four", onnx.TensorProto.UINT8, [], [4])
UINT8, FLOAT = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
SMALLEST = 127 * 1.1754943508222875e-38


def dequantize(values: Any, scale: Any) -> Any:
    """Store the integers, and multiply them with their scales where they are used."""
    return op.DequantizeLinear(values, scale, axis=0)


def int8_linear(inputs: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    """Round each row with its own scale, and multiply bytes: unsigned rows, for which there are fast kernels."""
    return _scaled_products(inputs, weight, scale, bias, ())


def int8_linear_unsigned(inputs: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    """Do the same with unsigned weights, computed when the file is opened: exact on any processor, but slower."""
    shifted = op.Add(op.Cast(weight, to=onnx.TensorProto.INT32), op.Constant(value=SHIFT))
    return _scaled_products(inputs, op.Cast(shifted, to=UINT8), scale, bias, (op.Constant(value=ZERO_POINT),))


def _scaled_products(inputs: Any, weight: Any, scale: Any, bias: Any, zero_point: tuple[Any, ...]) -> Any:
    largest = op.ReduceMax(op.Abs(inputs), op.Constant(value_ints=[-1]), keepdims=1)
    row_scale = op.Div(op.Max(largest, op.Constant(value_float=SMALLEST)), op.Constant(value_float=127.0))
    shifted = op.Add(op.Round(op.Div(inputs, row_scale)), op.Constant(value_float=128.0))
    rows = op.Cast(shifted, to=UINT8)
    products = op.MatMulInteger(rows, op.Transpose(weight, perm=[1, 0]), op.Constant(value=ZERO_POINT), *zero_point)
    outputs = op.Mul(op.Mul(op.Cast(products, to=FLOAT), scale), row_scale)
    return outputs if bias is None else op.Add(outputs, bias)


def dequantize_int4(packed: Any, scale: Any, shape: Sequence[int]) -> Any:
    """Store two integers in a byte, and compute the floats when the file is opened."""
    last = op.Constant(value_ints=[3])
    low = op.Unsqueeze(op.BitwiseAnd(packed, op.Constant(value=FIFTEEN)), last)
    high = op.Unsqueeze(op.BitShift(packed, op.Constant(value=FOUR), direction="RIGHT"), last)
    values = op.Sub(op.Cast(op.Concat(low, high, axis=3), to=FLOAT), op.Constant(value_float=8.0))
    scales = op.Unsqueeze(op.Cast(scale, to=FLOAT), op.Constant(value_ints=[2, 3]))
    rows = op.Reshape(op.Mul(values, scales), op.Constant(value_ints=[shape[0], -1]))
    inputs = [prod(shape[1:])]
    start, end, axis = op.Constant(value_ints=[0]), op.Constant(value_ints=inputs), op.Constant(value_ints=[1])
    return op.Reshape(op.Slice(rows, start, end, axis), op.Constant(value_ints=list(shape)))


def widen(values: Any) -> Any:
    """Store 16 bits, and compute the floats when the file is opened."""
    return op.Cast(values, to=FLOAT)


def is_decoding(node: Any) -> bool:
    """Return whether a node decodes a stored weight, so that its result must not replace what is stored."""
    if node.op_type in ("BitwiseAnd", "BitShift", "DequantizeLinear"):
        return True
    if node.op_type in ("Cast", "Transpose") and str(node.inputs[0].dtype) == "INT8":
        return True
    return node.op_type == "Cast" and str(node.inputs[0].dtype) in ("FLOAT16", "BFLOAT16")


def translations(signed: bool) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation of each operator; `signed` says how the weights of integer products are multiplied."""
    return {
        operators.dequantize._opoverload: dequantize,
        operators.dequantize_int4._opoverload: dequantize_int4,
        operators.widen._opoverload: widen,
        operators.int8_linear._opoverload: int8_linear if signed else int8_linear_unsigned,
    }
