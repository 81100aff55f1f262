"""OpenVINO: an IR file that OpenVINO runs without PyTorch; layers of integers stay integers.

Linear layers that round their inputs row by row multiply bytes. Other weights stay in the bits in which the model
stores them, and are multiplied in float32. Recurrent layers are unrolled: the number of steps is that of the data.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import toolkit
from toolkit_openvino.layers import check_layers

FILE = "model.xml"


@toolkit.hookimpl
def export(model: Any, example: Any, free_sizes: Any, folder: Any) -> None:
    if find_spec("openvino") is None:
        raise toolkit.TechniqueError(
            "the package openvino is not installed; install it with pip install 'torch-optimization-toolkit[openvino]'"
        )
    from toolkit_openvino.model import write_ir

    write_ir(model, example, folder / FILE, free_sizes)


@toolkit.hookimpl
def check(folder: Any) -> None:
    check_layers(folder / FILE)


@toolkit.hookimpl
def measure(folder: Any) -> dict[str, Any]:
    from toolkit_openvino.arithmetic import arithmetic_note

    return {"arithmetic": arithmetic_note(folder / FILE)}


@toolkit.hookimpl
def open(folder, params, threads):
    # Runs in a process that has neither the toolkit nor this module.
    import openvino

    # The defaults round floats to bfloat16 and activations to int8 where the processor is faster with them.
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    core = openvino.Core()
    model = core.read_model(f"{folder}/model.xml")
    keys = model.get_rt_info()["outputs"].astype(str).split("\n") if model.has_rt_info("outputs") else None
    network = core.compile_model(model, "CPU", settings)
    request = network.create_infer_request()

    def run(*inputs, **named):
        request.infer(named or list(inputs))
        outputs = [request.get_output_tensor(index).data.copy() for index in range(len(network.outputs))]
        if keys is not None:
            return dict(zip(keys, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs

    return run
