"""Which layers ONNX Runtime multiplies in integers, read from the graph that it runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

import toolkit
from toolkit_onnxruntime.layer_names import read_layer_name

FLOAT = {"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
CALIBRATED = {"QGemm", "QLinearConv", "QLinearMatMul"}
INTEGER = {
    *CALIBRATED,
    *("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"),
}


def arithmetic_note(file: Path) -> toolkit.Note:
    """Return a note with the arithmetic of each layer, as this machine's ONNX Runtime optimizes the file."""
    rows = [
        {
            "layer": read_layer_name(node),
            "operation": node.op_type,
            "arithmetic": "integers" if node.op_type in INTEGER else "float",
        }
        for node in products(optimized_graph(file))
    ]
    integer = sum(row["arithmetic"] == "integers" for row in rows)
    layers = f"{len(rows)} layer" if len(rows) == 1 else f"{len(rows)} layers"
    verb = "multiplies" if integer == 1 else "multiply"
    text = f"{integer} of {layers} {verb} in integers" if rows else "no layer with weights"
    return toolkit.Note(text + _on_batch_mates(rows), rows)


def _on_batch_mates(rows: list[dict[str, str]]) -> str:
    """Return what has to be said of recurrent layers of integers, which have one scale for a whole batch."""
    sharing = dict.fromkeys(row["layer"] for row in rows if row["operation"] == "DynamicQuantizeLSTM")
    if not sharing:
        return ""
    names = " and ".join(f"'{layer}'" for layer in sharing)
    return f"; the samples of a batch share the scales of {names}, so that an answer depends on its batch mates"


def products(graph: Any) -> list[Any]:
    """Return the nodes that multiply by weights: products of two activations, as in attention, do not count."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type in FLOAT | INTEGER and _weight(node) in weights]


def _weight(node: Any) -> str:
    """Return the name of the second factor: behind scale and zero point of the first where the node rounds."""
    place = 3 if node.op_type in CALIBRATED else 1
    return node.input[place] if len(node.input) > place else ""


def has_calibrated_activations(file: Path) -> bool:
    """Return whether the file rounds activations to calibrated ranges, so that ONNX Runtime can multiply integers."""
    metadata = onnx.load(file, load_external_data=False).metadata_props
    return any((entry.key, entry.value) == ("activations", "calibrated") for entry in metadata)


def optimized_graph(file: Path) -> Any:
    """Return the graph that ONNX Runtime runs on this machine."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # a warning says that the optimized file suits this machine only
    if not has_calibrated_activations(file):
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath).graph
