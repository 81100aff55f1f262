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
FIFTEEN = onnx.helper.make_tensor("fifteen", onnx.TensorProto.UINT8, [], [15])
FOUR = onnx.helper.make_tensor("four", onnx.TensorProto.UINT8, [], [4])
UINT8, FLOAT = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
SMALLEST = 127 * 1.1754943508222875e-38


def dequantize(values: Any, scale: Any) -> Any:
    """Store the integers, and multiply them with their scales where they are used."""
    rows = int(values.shape[0])
    zeros = onnx.helper.make_tensor("zeros", int(values.dtype), [rows], [0] * rows)
    # Without zero points ONNX Runtime multiplies linear layers in float.
    return op.DequantizeLinear(values, scale, op.Constant(value=zeros), axis=0)


def int8_linear(inputs: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    """Round each row with its own scale, and multiply positive and negative values apart: exact on any processor.

    Without VNNI, x86 adds two products of unsigned and signed bytes in 16 bits. Bytes up to 255 overflow there; those
    up to 127 do not, as 2 · 127 · 128 is less than 32,768.
    """
    row_scale, rounded = _rounded_rows(inputs)
    rows = op.Cast(op.Relu(op.Concat(rounded, op.Neg(rounded), axis=0)), to=UINT8)
    products = op.MatMulInteger(rows, op.Transpose(weight, perm=[1, 0]))
    positive, negative = op.Split(products, axis=0, num_outputs=2)
    return _scaled(op.Sub(positive, negative), row_scale, scale, bias)


def int8_linear_fast(inputs: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    """Do the same in one product of bytes up to 255."""
    row_scale, rounded = _rounded_rows(inputs)
    rows = op.Cast(op.Add(rounded, op.Constant(value_float=128.0)), to=UINT8)
    products = op.MatMulInteger(rows, op.Transpose(weight, perm=[1, 0]), op.Constant(value=ZERO_POINT))
    return _scaled(products, row_scale, scale, bias)


def _rounded_rows(inputs: Any) -> tuple[Any, Any]:
    largest = op.ReduceMax(op.Abs(inputs), op.Constant(value_ints=[-1]), keepdims=1)
    row_scale = op.Div(op.Max(largest, op.Constant(value_float=SMALLEST)), op.Constant(value_float=127.0))
    return row_scale, op.Round(op.Div(inputs, row_scale))


def _scaled(products: Any, row_scale: Any, scale: Any, bias: Any) -> Any:
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


def fake_quantize(values: Any, scale: Any, zero_point: Any) -> Any:
    """Round to bytes and back; ONNX Runtime merges this into the layers around it, which then run on the bytes."""
    return op.DequantizeLinear(op.QuantizeLinear(values, scale, zero_point), scale, zero_point)


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


def translations(fast: bool) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation of each operator; `fast` allows products that are inexact on some processors."""
    return {
        operators.dequantize._opoverload: dequantize,
        operators.dequantize_int4._opoverload: dequantize_int4,
        operators.fake_quantize._opoverload: fake_quantize,
        operators.widen._opoverload: widen,
        operators.int8_linear._opoverload: int8_linear_fast if fast else int8_linear,
    }
