"""Operators of the toolkit in those of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import onnx
from onnxscript import opset21

from toolkit import operators
from toolkit_onnxruntime.recurrent import int8_lstm
from toolkit_onnxruntime.signed_products import signed_products

op: Any = opset21  # its annotations do not know that a constant has a type
UINT8, FLOAT = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
MOVING = ("Flatten", "Identity", "MaxPool", "Reshape", "Transpose")  # operations that only move or select numbers
SMALLEST = 127 * 1.1754943508222875e-38


def dequantize(values: Any, scale: Any) -> Any:
    """Store the integers, and multiply them with their scales where they are used."""
    rows = int(values.shape[0])
    zeros = onnx.helper.make_tensor("zeros", int(values.dtype), [rows], [0] * rows)
    # Without zero points ONNX Runtime multiplies linear layers in float.
    return op.DequantizeLinear(values, scale, op.Constant(value=zeros), axis=0)


def int8_linear(inputs: Any, weight: Any, scale: Any, bias: Any = None) -> Any:
    """Round each row with its own scale, multiply bytes, and multiply the sums with both scales."""
    is_signed, columns = not _is_nonnegative(inputs), op.Transpose(weight, perm=[1, 0])
    rows = _rows(inputs if is_signed else _before_relu(inputs), weight.shape[1])
    largest = op.ReduceMax(op.Abs(rows) if is_signed else rows, op.Constant(value_ints=[-1]), keepdims=0)
    row_scale = op.Div(op.Max(largest, op.Constant(value_float=SMALLEST)), op.Constant(value_float=127.0))
    if is_signed:
        products = signed_products(rows, row_scale, columns)
    else:
        products = op.MatMulInteger(op.QuantizeLinear(rows, row_scale, axis=0, output_dtype=UINT8), columns)
    outputs = op.Mul(op.DequantizeLinear(products, row_scale, axis=0), scale)
    outputs = outputs if bias is None else op.Add(outputs, bias)
    if len(inputs.shape) == 2:
        return outputs
    return op.Reshape(outputs, op.Concat(op.Shape(inputs, end=-1), op.Shape(scale), axis=0))


def _rows(inputs: Any, width: int) -> Any:
    return inputs if len(inputs.shape) == 2 else op.Reshape(inputs, op.Constant(value_ints=[-1, int(width)]))


def _is_nonnegative(value: Any) -> bool:
    """Return whether the graph shows that no number is negative."""
    node = value.producer()
    while node is not None and node.op_type in MOVING:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in ("Relu", "Sigmoid", "Softmax")


def _before_relu(value: Any) -> Any:
    """Return what a ReLU receives: rounding to unsigned bytes turns negative values into zeros, too."""
    node = value.producer()
    return node.inputs[0] if node.op_type == "Relu" else value


def dequantize_int4(packed: Any, scale: Any, shape: Sequence[int]) -> Any:
    """Store two integers in a byte, and compute the floats when the file is opened."""
    return _in_groups(packed, scale, shape, 4)


def dequantize_int2(packed: Any, scale: Any, shape: Sequence[int]) -> Any:
    """Store four integers in a byte, and compute the floats when the file is opened."""
    return _in_groups(packed, scale, shape, 2)


def _in_groups(packed: Any, scale: Any, shape: Sequence[int], bits: int) -> Any:
    parts = [op.Unsqueeze(_bits(packed, start, bits), op.Constant(value_ints=[3])) for start in range(0, 8, bits)]
    values = op.Cast(op.Concat(*parts, axis=3), to=FLOAT)
    values = op.Sub(values, op.Constant(value_float=float(2 ** (bits - 1))))
    scales = op.Unsqueeze(op.Cast(scale, to=FLOAT), op.Constant(value_ints=[2, 3]))
    rows = op.Reshape(op.Mul(values, scales), op.Constant(value_ints=[shape[0], -1]))
    inputs = [prod(shape[1:])]
    start, end, axis = op.Constant(value_ints=[0]), op.Constant(value_ints=inputs), op.Constant(value_ints=[1])
    return op.Reshape(op.Slice(rows, start, end, axis), op.Constant(value_ints=list(shape)))


def _bits(packed: Any, start: int, bits: int) -> Any:
    """Some bits of each byte, from the lowest ones or up to the highest ones without a superfluous operation."""
    if start > 0:
        packed = op.BitShift(packed, op.Constant(value=_byte(start)), direction="RIGHT")
    return packed if start + bits == 8 else op.BitwiseAnd(packed, op.Constant(value=_byte(2**bits - 1)))


def _byte(value: int) -> Any:
    return onnx.helper.make_tensor(f"byte_{value}", UINT8, [], [value])


def fake_quantize(values: Any, scale: Any, zero_point: Any) -> Any:
    """Round to bytes and back; ONNX Runtime merges this into the layers around it, which then run on the bytes."""
    return op.DequantizeLinear(op.QuantizeLinear(values, scale, zero_point), scale, zero_point)


def widen(values: Any) -> Any:
    """Store 16 bits, and compute the floats when the file is opened."""
    return op.Cast(values, to=FLOAT)


def is_decoding(node: Any) -> bool:
    """Return whether a node decodes a stored weight, so that its result must not replace what is stored."""
    if node.op_type in ("MatMulInteger", "BitwiseAnd", "BitShift", "DequantizeLinear"):
        return True
    if node.op_type in ("Cast", "Transpose") and str(node.inputs[0].dtype) == "INT8":
        return True
    return node.op_type == "Cast" and str(node.inputs[0].dtype) in ("FLOAT16", "BFLOAT16")


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation of each operator."""
    return {
        operators.dequantize._opoverload: dequantize,
        operators.dequantize_int4._opoverload: dequantize_int4,
        operators.dequantize_int2._opoverload: dequantize_int2,
        operators.fake_quantize._opoverload: fake_quantize,
        operators.widen._opoverload: widen,
        operators.int8_linear._opoverload: int8_linear,
        operators.int8_lstm._opoverload: int8_lstm,
    }
