"""Which layers OpenVINO multiplies in integers, read from the model that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino

import toolkit

PRODUCTS = {"Convolution", "Deconvolution", "FullyConnected"}
INTEGER_KERNELS = ("_i8", "_u8", "_s8")
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


def arithmetic_note(file: Path) -> toolkit.Note:
    """Return a note with the arithmetic of each layer, as OpenVINO compiles the file on this machine."""
    network = openvino.Core().compile_model(file, "CPU", SETTINGS)
    rows = [row for node in network.get_runtime_model().get_ordered_ops() if (row := _row(node)) is not None]
    integer = sum(row["arithmetic"] == "integers" for row in rows)
    layers = f"{len(rows)} layer" if len(rows) == 1 else f"{len(rows)} layers"
    verb = "multiplies" if integer == 1 else "multiply"
    return toolkit.Note(f"{integer} of {layers} {verb} in integers" if rows else "no layer with weights", rows)


def _row(node: Any) -> dict[str, str] | None:
    """Return operation, kernel and arithmetic of a node that multiplies by weights."""
    # The precision of a node is that of its stored weights, which a kernel may decode: the kernel tells.
    information = {key: value.astype(str) for key, value in node.get_rt_info().items()}
    operation, kernel = information.get("layerType", ""), information.get("primitiveType", "")
    if operation not in PRODUCTS:
        return None
    arithmetic = "integers" if kernel.lower().endswith(INTEGER_KERNELS) else "float"
    return {"layer": node.get_friendly_name(), "operation": operation, "kernel": kernel, "arithmetic": arithmetic}
