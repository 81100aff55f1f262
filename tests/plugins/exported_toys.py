"""Toys in the dtypes that a stage may leave, and a comparison of their files with them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from toolkit_quantization import kernels
from torch import Tensor, nn

from toolkit.exports.files import ExportedModel, export_model
from toolkit.exports.judge import compare
from toolkit.exports.process import OpenedFile
from toolkit.hooks.loading import Plugin
from toolkit.masks import folded
from toolkit.testing import TOY_MODELS, toy_data
from toolkit.testing.base import ContractBase

ANY_DROP = {"max_drop": 100}  # the toys are not trained
INT8 = {"dtype": "int8", "arithmetic": "int8", **ANY_DROP}
DTYPES = {
    "float": None,
    "int8": INT8,
    "int4": {"dtype": "int4", **ANY_DROP},
    "int2": {"dtype": "int2", **ANY_DROP, "max_error": 100},
    "float16": {"dtype": "float16"},
}


def require_exact_sums() -> None:
    """Skip where sums of bytes overflow in oneDNN, whose kernels PyTorch and OpenVINO use."""
    if not kernels.is_exact(kernels.onednn_packed):
        pytest.skip("bytes are not summed exactly on this processor")


def perform(model: nn.Module, technique: str, params: dict) -> nn.Module:
    stage = type("Performing", (ContractBase,), {"technique": technique, "params": params, "finetune": None})()
    return stage._perform(model).model.eval()


def quantized(toy: str, params: dict | None) -> nn.Module:
    torch.manual_seed(0)
    model = TOY_MODELS[toy]()
    return model.eval() if params is None else perform(model, "quantization", params)


def exported(runtime: Plugin, model: nn.Module, folder, **params) -> ExportedModel:
    return export_model(runtime, runtime.params_class(**params), model, toy_data(64), folder / runtime.name)


def opened(file: ExportedModel, *blocked: str, threads: int = 1) -> OpenedFile:
    return file.opened(threads, [f"toolkit_{file.runtime}", *blocked])


@torch.no_grad()
def check_answers(file: ExportedModel, model: nn.Module, *blocked: str, tolerance: float = 1e-5) -> None:
    """Compare all outputs of a file with the model's, also at unusual batch sizes."""
    model, data = folded(model).eval(), toy_data(64)
    with opened(file, *blocked) as session:
        assert compare(session, model, data, "test").output_error < tolerance
        for size in (1, 7):
            outputs, expected = session(data.example(size).inputs), model(data.example(size).inputs)
            torch.testing.assert_close(outputs, expected, rtol=tolerance, atol=tolerance)


RUN_ONNX = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
numpy.save(sys.argv[3], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})[0])
"""
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind emulates a processor with AVX2")


def outputs_without_vnni(onnx_file: Path, inputs: Tensor, folder: Path) -> Tensor:
    """Run an ONNX file on an emulated processor without AVX-512 and VNNI."""
    numpy.save(folder / "inputs.npy", inputs.numpy())
    paths = [str(onnx_file), str(folder / "inputs.npy"), str(folder / "outputs.npy")]
    done = subprocess.run(
        ["valgrind", "--tool=none", "-q", sys.executable, "-c", RUN_ONNX, *paths], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(numpy.load(folder / "outputs.npy"))
