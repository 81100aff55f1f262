"""Scales of stored weights in model files: what no weight has is refused in one sentence."""

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from toolkit_quantization import Params, convert

import toolkit
from toolkit import model_files
from toolkit.errors import ArtifactError
from toolkit.model_files.packed import pack
from toolkit.testing import toy_lstm, toy_mlp


def saved(model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    for name, content in model_files.pack(model).items():
        (folder / name).write_bytes(content)
    return safetensors.torch.load_file(folder / model_files.TENSORS)


@pytest.mark.parametrize(
    ("value", "finding"),
    [
        (float("inf"), "the stored weights '{}' contain an infinity"),
        (float("-inf"), "the stored weights '{}' contain an infinity"),
        (float("nan"), "the tensor '{}' contains NaN"),
        (1e37, "the stored weights '{}' contain 1e+37"),
    ],
)
@pytest.mark.parametrize(
    ("make", "dtype", "scale"),
    [(toy_mlp, "int8", "1.scale"), (toy_lstm, "int8", "lstm.layer.weight_ih_l0.scale"), (toy_mlp, "int4", None)],
)
def test_a_scale_that_no_weight_has_is_refused(make, dtype, scale, value, finding, tmp_path):
    tensors = saved(convert(make(), Params(dtype=dtype)), tmp_path)
    scale = scale or "1.layer.weight.scale"
    tensors[scale].view(-1)[0] = value
    metadata = model_metadata(tmp_path)
    safetensors.torch.save_file(tensors, tmp_path / model_files.TENSORS, metadata)
    skeleton = tmp_path / model_files.SKELETON
    sentence = f"{skeleton}: {finding.format(scale)}, so the model is unusable"
    with pytest.raises(ArtifactError, match=f"^{re.escape(sentence)}$".replace(r"1e\+37", r"(1e\+37|9\.97e\+36)")):
        toolkit.load(tmp_path)


def model_metadata(folder: Path) -> dict[str, str]:
    with safetensors.safe_open(folder / model_files.TENSORS, "pt") as file:
        return file.metadata()


def test_a_packed_model_with_such_a_scale_is_not_written():
    model = convert(toy_mlp(), Params())
    model[1].scale[0] = float("inf")
    with pytest.raises(ArtifactError, match=r"cannot be saved: the stored weights '1\.scale' contain an infinity"):
        pack(model)


@pytest.mark.parametrize("dtype", ["int8", "int4", "float16", "bfloat16"])
def test_the_largest_weights_that_layers_store_are_opened(dtype, tmp_path):
    model = toy_mlp()
    with torch.no_grad():
        model[1].weight[0, 0] = 6e4 if dtype == "float16" else 1e36
    saved(convert(model, Params(dtype=dtype)), tmp_path)
    assert toolkit.load(tmp_path)[1].dense_weight().isfinite().all()
