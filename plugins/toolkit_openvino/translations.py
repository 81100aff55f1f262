"""Operators of the toolkit in those of OpenVINO."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import openvino
from openvino import opset15 as op
from openvino.frontend.pytorch import ConversionExtension

INT8_MAX = np.float32(127)
SMALLEST = np.float32(127 * 1.1754943508222875e-38)
LEVELS = 255


def translations() -> list[ConversionExtension]:
    """Return the translation of each operator."""
    own = (dequantize, dequantize_int4, dequantize_int2, fake_quantize, int8_linear, widen)
    return [ConversionExtension(f"toolkit.{translate.__name__}.default", translate) for translate in own]


def dequantize(node: Any) -> Any:
    """Store the integers, and multiply them with their scales where they are used."""
    values = node.get_input(0)
    axes = list(range(1, values.get_partial_shape().rank.get_length()))
    scale = op.unsqueeze(node.get_input(1), _integers(axes)) if axes else node.get_input(1)
    return op.multiply(op.convert(values, "f32"), scale).outputs()


def int8_linear(node: Any) -> Any:
    """Round each row with its own scale; OpenVINO turns this rounding into a product of bytes."""
    inputs, weight, scale = (node.get_input(index) for index in range(3))
    largest = op.reduce_max(op.abs(inputs), _integers([-1]), keep_dims=True)
    row_scale = op.divide(op.maximum(largest, SMALLEST), INT8_MAX)
    limits = (-INT8_MAX, INT8_MAX)
    rows = op.fake_quantize(op.divide(inputs, row_scale), *limits, *limits, LEVELS)
    floats = op.multiply(op.convert(weight, "f32"), op.unsqueeze(scale, _integers([1])))
    outputs = op.multiply(op.matmul(rows, floats, False, True), row_scale)
    return (outputs if _is_none(node, 3) else op.add(outputs, node.get_input(3))).outputs()


def fake_quantize(node: Any) -> Any:
    """Round to the 256 values of bytes; OpenVINO runs the layers between two such roundings on bytes."""
    values = node.get_input(0)
    scale, zero = (node.get_input(index).get_node().data.astype(np.float32) for index in (1, 2))
    low, high = (op.constant((limit - zero) * scale) for limit in (np.float32(0), np.float32(255)))
    return op.fake_quantize(values, low, high, low, high, 256).outputs()


def _is_none(node: Any, index: int) -> bool:
    return node.get_input_size() <= index or node.get_input(index).get_partial_shape().rank.is_dynamic


def dequantize_int4(node: Any) -> Any:
    """Store integers of four bits, which OpenVINO has."""
    return _in_groups(node, 4)


def dequantize_int2(node: Any) -> Any:
    """Store integers of two bits, which OpenVINO has."""
    return _in_groups(node, 2)


def _in_groups(node: Any, bits: int) -> Any:
    packed, shape = node.get_input(0).get_node().data, list(node.get_values_from_const_input(2))
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    integers, scale = np.stack(parts, axis=3).reshape(*packed.shape[:2], -1), node.get_input(1)
    inputs = prod(shape[1:])
    zero = np.array(2 ** (bits - 1))
    if packed.shape[1] == 1:  # a group for each row needs no third dimension, which some kernels do not take
        integers = integers[:, 0, :inputs]
    else:
        scale = op.unsqueeze(scale, _integers([2]))
    floats = op.subtract(op.convert(_packed(integers, bits), "f32"), op.convert(_packed(zero, bits), "f32"))
    rows = op.multiply(floats, op.convert(scale, "f32"))
    if packed.shape[1] > 1:
        rows = op.reshape(rows, _integers([shape[0], -1]), False)
    if integers[0].size != inputs:
        rows = op.slice(rows, *map(_integers, ([0], [inputs], [1], [1])))
    return (op.reshape(rows, _integers(shape), False) if len(shape) > 2 else rows).outputs()


def widen(node: Any) -> Any:
    """Store 16 bits."""
    return op.convert(node.get_input(0), "f32").outputs()


def _packed(values: Any, bits: int) -> Any:
    kind = openvino.Type.u4 if bits == 4 else openvino.Type.u2
    return openvino.op.Constant(kind, openvino.Shape(list(values.shape)), values.reshape(-1).tolist())


def _integers(values: list[int]) -> Any:
    return op.constant(np.array(values, np.int64))
