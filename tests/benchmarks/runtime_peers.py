"""Other ways to run a float network, each as its own documentation says, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import masks, tracing

Run = Callable[[Tensor], Tensor]
CALIBRATION = 64  # samples


def peers(model: nn.Module, samples: Tensor, folder: Path) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Yield names, and what makes each of the ways; it fails where that way does not take the network."""
    file = folder / "peer.onnx"
    yield "eager", lambda: model
    yield "torch.compile", lambda: torch.compile(masks.clone(model), dynamic=False)
    for engine in ("x86", "onednn"):
        if engine in torch.backends.quantized.supported_engines:
            yield f"quantize_dynamic, {engine}", partial(quantize_dynamic, model, engine)
    yield "torchao", lambda: torchao_int8(model)
    yield "torchao, compiled", lambda: torch.compile(torchao_int8(model), dynamic=False)
    yield "ORT float", lambda: onnx_session(onnx_file(model, samples[:2], file))
    yield "ORT dynamic int8", lambda: onnx_session(onnx_dynamic(onnx_file(model, samples[:2], file)))
    yield (
        "ORT static int8",
        lambda: onnx_session(onnx_static(onnx_file(model, samples[:2], file), samples[:CALIBRATION])),
    )
    yield "OpenVINO float", lambda: openvino_compiled(openvino_converted(model, samples[:2]))
    yield "OpenVINO, NNCF", lambda: openvino_compiled(nncf_int8(model, samples[:CALIBRATION]))


def quantize_dynamic(model: nn.Module, engine: str) -> Run:
    """PyTorch's own, which packs its weights for an engine."""
    from torch.ao import quantization

    torch.backends.quantized.engine = engine
    network = quantization.quantize_dynamic(nn.Sequential(masks.clone(model)), {nn.Linear, nn.LSTM})[0]

    def run(inputs: Tensor) -> Tensor:
        torch.backends.quantized.engine = engine
        return network(inputs)

    return run


def torchao_int8(model: nn.Module) -> nn.Module:
    """torchao's int8 with a scale for each row and each output channel, of linear layers."""
    from torchao import quantization

    model = masks.clone(model)
    quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
    return model


def onnx_file(model: nn.Module, example: Tensor, path: Path) -> Path:
    """Return PyTorch's own export."""
    shapes = tracing.dynamic_batch((example,))
    torch.onnx.export(model, (example,), path, dynamo=True, dynamic_shapes=shapes, external_data=False)
    return path


def onnx_dynamic(path: Path) -> Path:
    """Return the file that ONNX Runtime's own tool quantizes."""
    from onnxruntime import quantization

    quantized = path.with_name("peer-dynamic.onnx")
    quantization.quantize_dynamic(path, quantized)
    return quantized


def onnx_static(path: Path, samples: Tensor) -> Path:
    """Return the file that ONNX Runtime's own tool quantizes with calibrated activations."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, quantized = path.with_name("peer-prepared.onnx"), path.with_name("peer-static.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    name = onnx_inputs(prepared)[0]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{name: part.numpy()} for part in samples.split(8)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    quantization.quantize_static(prepared, quantized, Reader(), per_channel=True)
    return quantized


def onnx_inputs(path: Path) -> list[str]:
    """Return the names of a file's inputs."""
    import onnx

    return [value.name for value in onnx.load(path, load_external_data=False).graph.input]


def onnx_session(path: Path) -> Run:
    """Return the file, opened with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


def openvino_converted(model: nn.Module, example: Tensor) -> Any:
    """Return OpenVINO's own conversion of the network."""
    import openvino

    return openvino.convert_model(masks.clone(model), example_input=example)


def nncf_int8(model: nn.Module, samples: Tensor) -> Any:
    """Return the network, quantized by OpenVINO's own tool with calibrated activations."""
    import nncf

    batches = nncf.Dataset([part.numpy() for part in samples.split(1)])
    return nncf.quantize(openvino_converted(model, samples[:2]), batches, subset_size=len(samples))


def openvino_compiled(converted: Any) -> Run:
    """Return a converted network, ready to run in float32 and int8 on one thread."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.compile_model(converted, "CPU", settings)
    request = network.create_infer_request()

    def run(inputs: Tensor) -> Tensor:
        request.infer([inputs.numpy()])
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run
