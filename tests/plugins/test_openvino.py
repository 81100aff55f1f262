"""OpenVINO's files: outputs and integers are those of the model, threads are respected, and errors are sentences."""

import logging
from importlib.util import find_spec

import pytest
import torch
from exported_toys import DTYPES, check_answers, exported, opened, perform, quantized, require_exact_sums
from torch import nn

from toolkit.errors import TechniqueError
from toolkit.hooks import loading
from toolkit.testing import TOY_MODELS, toy_mlp

LINEAR = {"mlp": 2, "cnn": 1, "lstm": 1, "transformer": 8, "tied": 4, "outputs": 1}
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")


@pytest.fixture
def runtime():
    return loading.load("openvino", "runtime")


def note(runtime, file):
    return runtime.call("measure", folder=file.folder, params=runtime.params_class())["arithmetic"]


def check_file(runtime, toy, dtype, folder):
    if dtype == "int8":
        require_exact_sums()
    model = quantized(toy, DTYPES[dtype])
    file = exported(runtime, model, folder)
    # A last bit of a convolution decides between two integers.
    check_answers(file, model, "torch", tolerance=5e-3 if dtype == "int8" else 1e-5)
    arithmetic = note(runtime, file)
    assert sum(row["arithmetic"] == "integers" for row in arithmetic.table) == (LINEAR[toy] if dtype == "int8" else 0)
    return arithmetic


@needs_openvino
def test_int8_is_multiplied_in_integers(runtime, tmp_path):
    assert check_file(runtime, "cnn", "int8", tmp_path).text == "1 of 3 layers multiplies in integers"


@pytest.mark.slow
@needs_openvino
def test_a_layer_without_a_bias(runtime, tmp_path):
    require_exact_sums()
    model = perform(nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)), "quantization", DTYPES["int8"])
    check_answers(exported(runtime, model, tmp_path), model, tolerance=5e-3)


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("toy", TOY_MODELS)
def test_every_toy_in_every_dtype(toy, dtype, runtime, tmp_path):
    check_file(runtime, toy, dtype, tmp_path)


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize(
    ("dtype", "bytes_each"), [("int8", 1), ("int4", 0.5 + 4 / 32), ("int2", 0.25 + 4 / 32), ("float16", 2)]
)
def test_large_weights_are_stored_in_few_bytes(dtype, bytes_each, runtime, tmp_path):
    model = perform(toy_mlp(1024), "quantization", DTYPES[dtype])
    weights = 1024 * 64 + 1024 * 4
    assert exported(runtime, model, tmp_path).size_bytes < bytes_each * weights + 40_000


@needs_openvino
def test_the_file_is_run_with_as_many_threads_as_asked(runtime):
    import openvino

    settings = []
    core = type("Core", (), {"read_model": lambda *_: openvino.Model([], []), "compile_model": compiling(settings)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "Core", core)
        runtime.module.open("", None, 3)
    assert settings[0]["INFERENCE_NUM_THREADS"] == 3


def compiling(settings):
    def compile_model(_, model, device, given):
        settings.append(given)
        return type("Network", (), {"create_infer_request": lambda self: None})()

    return compile_model


@pytest.mark.slow
@needs_openvino
def test_a_dictionary_is_returned_as_one(runtime, tmp_path):
    file = exported(runtime, TOY_MODELS["outputs"]().eval(), tmp_path)
    with opened(file) as session:
        outputs = session(torch.zeros(3, 1, 8, 8))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {"logits": (3, 4), "features": (3, 8)}


class Airy(nn.Module):
    def forward(self, inputs):
        return torch.special.airy_ai(inputs)


@needs_openvino
def test_an_operation_that_it_does_not_have_is_named(runtime, tmp_path, capfd):
    level, handlers = logging.getLogger().level, [*logging.getLogger().handlers]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), Airy()).eval()
    with pytest.raises(TechniqueError, match=r"uses aten.special_airy_ai.default, which OpenVINO does not") as problem:
        exported(runtime, model, tmp_path)
    assert "\n" not in str(problem.value)
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)


@needs_openvino
def test_the_arithmetic_of_an_engine_is_named(runtime, tmp_path):
    with pytest.raises(TechniqueError, match="layer '1' uses the arithmetic of engine 'torch', which no other runtime"):
        exported(runtime, quantized("mlp", {"engine": "torch"}), tmp_path)


NET = '<?xml version="1.0"?>{before}<net name="net" version="11"><layers>{layers}</layers></net>'
CONSTANT = (
    '<layer id="0" name="weight" type="Const" version="{version}"><data offset="{offset}" size="{size}"/></layer>'
)


def check(runtime, folder, before="", version="opset1", offset="8", size="8"):
    layers = CONSTANT.format(version=version, offset=offset, size=size)
    (folder / "model.xml").write_text(NET.format(before=before, layers=layers))
    (folder / "model.bin").write_bytes(bytes(16))
    runtime.call("check", folder=folder)


def test_a_sound_file_passes(runtime, tmp_path):
    check(runtime, tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size": "9"}, r"layer 'weight' reads beyond the end of model\.bin; do not open it"),
        ({"offset": "-8"}, r"layer 'weight' reads beyond the end of model\.bin"),
        ({"size": ""}, r"layer 'weight' reads beyond the end of model\.bin"),
        ({"version": "extension"}, "layer 'weight' uses the operation 'Const' of 'extension', which is not OpenVINO's"),
        ({"before": '<!DOCTYPE net [<!ENTITY a "aa">]>'}, "defines entities of XML, which OpenVINO does not write"),
        ({"version": "<"}, r"model\.xml is not an IR of OpenVINO; export the model again"),
    ],
)
def test_a_hostile_file_is_not_opened(change, sentence, runtime, tmp_path):
    with pytest.raises(TechniqueError, match=sentence):
        check(runtime, tmp_path, **change)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_another_file_under_its_name_is_not_opened(encoding, runtime, tmp_path):
    declaration = f'<?xml version="1.0" encoding="{encoding[:6]}"?>'
    (tmp_path / "model.xml").write_text(f"{declaration if '16' in encoding else ''}<html/>", encoding)
    with pytest.raises(TechniqueError, match=r"model\.xml is not an IR of OpenVINO; export the model again"):
        runtime.call("check", folder=tmp_path)


@pytest.mark.slow
@needs_openvino
def test_what_is_exported_passes_the_check(runtime, tmp_path):
    runtime.call("check", folder=exported(runtime, quantized("transformer", DTYPES["int8"]), tmp_path).folder)


@pytest.mark.skipif(find_spec("openvino") is not None, reason="needs an environment without openvino")
def test_a_missing_package_is_named_with_its_extra(runtime, tmp_path):
    with pytest.raises(TechniqueError, match=r"pip install 'torch-optimization-toolkit\[openvino\]'"):
        exported(runtime, toy_mlp().eval(), tmp_path)


@needs_openvino
@pytest.mark.parametrize("toy", ["cnn", pytest.param("tied", marks=pytest.mark.slow)])
def test_static_activations_make_whole_layers_integers(toy, runtime, tmp_path):
    model = perform(TOY_MODELS[toy](), "quantization", {"activations": "static", "max_drop": 100.0})
    file = exported(runtime, model, tmp_path)
    check_answers(file, model, "torch", tolerance=1e-3)
    assert [row["arithmetic"] for row in note(runtime, file).table] == ["integers"] * (3 if toy == "cnn" else 4)


STATIC = {"activations": "static", "max_drop": 100.0}


class Signed(nn.Module):
    """Two convolutions and two linear layers, all of whose inputs have both signs."""

    def __init__(self, padding=0, is_residual=False):
        super().__init__()
        self.enter, self.pool = nn.Conv2d(1, 8, 3, padding=1), nn.MaxPool2d(2)
        self.conv = nn.Conv2d(8, 8, 3, padding=padding, bias=False)
        self.linear, self.leave = nn.Linear(32 if padding == 0 else 128, 16), nn.Linear(16, 4)
        self.is_residual = is_residual

    def forward(self, inputs):
        outputs = self.pool(self.enter(inputs))
        outputs = self.conv(outputs) + outputs if self.is_residual else self.conv(outputs)
        return self.leave(nn.functional.gelu(self.linear(outputs.flatten(1))))


def lowest_roundings(file):
    """Return the smallest number that each rounding of activations returns."""
    import openvino

    operations = openvino.Core().read_model(file.folder / "model.xml").get_ordered_ops()
    roundings = [each for each in operations if each.get_type_name() == "FakeQuantize"]
    return [float(each.input_value(3).get_node().data.item()) for each in roundings]


@needs_openvino
@pytest.mark.parametrize(
    ("options", "remaining"),
    [({}, 1), ({"padding": 1, "is_residual": True}, 3)],
)
@pytest.mark.slow
def test_zero_points_are_part_of_the_biases_of_layers_without_padding(options, remaining, runtime, tmp_path):
    torch.manual_seed(0)
    model = perform(Signed(**options), "quantization", STATIC)
    file = exported(runtime, model, tmp_path)
    assert [row["arithmetic"] for row in note(runtime, file).table] == ["integers"] * 4
    assert sum(low < 0 for low in lowest_roundings(file)) == remaining
    check_answers(file, model, tolerance=5e-3)
