"""ONNX: one file that ONNX Runtime, and much else, runs without PyTorch; layers of integers stay integers.

Int8 weights are stored as such, with `DequantizeLinear` where they are multiplied in float; linear layers that round
their inputs row by row become `MatMulInteger` with the scales that the model was measured with. Their sums are exact on
every processor: the file finds out, when it is opened, whether one product of all bytes is exact there.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

import toolkit
from toolkit_onnxruntime.arithmetic import arithmetic_note
from toolkit_onnxruntime.external_data import check_external_data
from toolkit_onnxruntime.model import write_onnx
from toolkit_onnxruntime.value_names import value_names

FILE = "model.onnx"


class Params(toolkit.Params):
    opset: int = Field(default=21, ge=21, le=23, description="version of the ONNX operators")


@toolkit.hookimpl
def export(model: Any, params: Params, example: Any, free_sizes: Any, folder: Any) -> str:
    write_onnx(model, example, folder / FILE, params.opset, free_sizes)
    return value_names(folder / FILE)


@toolkit.hookimpl
def check(folder: Any) -> None:
    check_external_data(folder / FILE)


@toolkit.hookimpl
def measure(folder: Any) -> dict[str, Any]:
    return {"arithmetic": arithmetic_note(folder / FILE)}


@toolkit.hookimpl
def open(folder, params, threads):
    # Runs in a process that has neither the toolkit nor this module.
    import builtins

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with builtins.open(f"{folder}/model.onnx", "rb") as file:
        # The key and the value of the metadata, with their lengths, as `write_onnx` writes them.
        is_calibrated = b"\n\x0bactivations\x12\ncalibrated" in file.read()
    if not is_calibrated:
        # Weights in int8 that are multiplied in float are decoded once, when the file is opened, not at each call.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    keys = [value.name for value in session.get_outputs()]
    returns_dictionary = session.get_modelmeta().custom_metadata_map.get("outputs") == "dictionary"

    def run(*inputs, **named):
        feed = named or dict(zip(names, inputs, strict=True))
        outputs = session.run(None, {name: feed[name] for name in names})
        if returns_dictionary:
            return dict(zip(keys, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs

    return run
