"""PT2 files: PyTorch alone runs them, outputs are the model's, and weights stay in their bits."""

import zipfile

import pytest
import torch
from exported_toys import DTYPES, INT8, check_answers, exported, opened, perform, quantized, require_exact_sums
from torch import nn

from toolkit.errors import TechniqueError
from toolkit.hooks import loading
from toolkit.testing import TOY_MODELS, toy_mlp

LINEAR = {"mlp": 2, "cnn": 1, "lstm": 1, "transformer": 8, "tied": 4, "outputs": 1}


@pytest.fixture
def runtime():
    return loading.load("pt2", "runtime")


def note(runtime, file):
    return runtime.call("measure", folder=file.folder, params=runtime.params_class())["arithmetic"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("toy", TOY_MODELS)
def test_every_toy_in_every_dtype(toy, dtype, runtime, tmp_path):
    if dtype == "int8":
        require_exact_sums()
    model = quantized(toy, DTYPES[dtype])
    file = exported(runtime, model, tmp_path, int8_products="integers")
    check_answers(file, model)
    integer = sum(row["arithmetic"] == "integers" for row in note(runtime, file).table)
    assert integer == (LINEAR[toy] if dtype == "int8" else 0)


@pytest.mark.slow
def test_masks_and_shared_values_are_folded(runtime, tmp_path):
    model = perform(perform(toy_mlp(), "pruning", {"sparsity": 0.5}), "codebook", {"bits": 2})
    check_answers(exported(runtime, model, tmp_path), model)


@pytest.mark.parametrize(("int8_products", "layers"), [("integers", ["6"]), ("float", [])])
def test_int8_is_multiplied_as_the_params_say(int8_products, layers, runtime, tmp_path):
    model = quantized("cnn", INT8)
    file = exported(runtime, model, tmp_path, int8_products=int8_products)
    arithmetic = note(runtime, file)
    assert [row["layer"] for row in arithmetic.table] == ["0", "3", "6"]
    assert [row["layer"] for row in arithmetic.table if row["arithmetic"] == "integers"] == layers
    assert arithmetic.text == (
        "1 of 3 layers multiplies in integers" if layers else "0 of 3 layers multiply in integers"
    )


@pytest.mark.parametrize(
    ("dtype", "bytes_each"),
    [
        ("int2", 0.25 + 4 / 32),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("int8", 1), ("int4", 0.5 + 4 / 32), ("float16", 2))
        ),
    ],
)
def test_large_weights_are_stored_in_few_bytes(dtype, bytes_each, runtime, tmp_path):
    model = perform(toy_mlp(1024), "quantization", DTYPES[dtype])
    weights = 1024 * 64 + 1024 * 4
    assert exported(runtime, model, tmp_path).size_bytes < bytes_each * weights + 80_000


def test_the_file_contains_neither_samples_nor_paths(runtime, tmp_path):
    file = exported(runtime, quantized("cnn", INT8), tmp_path)
    with zipfile.ZipFile(file.folder / "model.pt2") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert not any(b".py" in part or b"site-packages" in part for part in content.values())
    assert not any(b"storage" in part.lower() for name, part in content.items() if "sample_inputs" in name)


class Answer(dict):
    """A dictionary of a class that no other process has."""


class Answering(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, inputs):
        return Answer(logits=self.layer(inputs.flatten(1)))


@pytest.mark.slow
def test_a_dictionary_of_any_class_is_returned_as_a_plain_one(runtime, tmp_path):
    file = exported(runtime, Answering().eval(), tmp_path)
    with opened(file) as session:
        assert session(torch.zeros(3, 1, 8, 8))["logits"].shape == (3, 4)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, inputs):
        outputs = self.layer(inputs.flatten(1))
        return outputs if outputs.sum() > 0 else -outputs


def test_what_cannot_be_exported_is_said_in_a_sentence(runtime, tmp_path, capfd):
    sentence = r"control flow depends on the values of its inputs \(test_pt2.py, line \d+: return"
    with pytest.raises(TechniqueError, match=sentence) as problem:
        exported(runtime, Branch().eval(), tmp_path)
    assert "\n" not in str(problem.value)
    assert capfd.readouterr() == ("", "")


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(8, 4, batch_first=True)

    def forward(self, inputs):
        lengths = torch.full((len(inputs),), 8)
        packed = nn.utils.rnn.pack_padded_sequence(inputs[:, 0], lengths, batch_first=True, enforce_sorted=False)
        return self.layer(packed)[1][0]


def test_the_line_at_which_tracing_fails_is_named(runtime, tmp_path):
    with pytest.raises(TechniqueError, match=r"cannot trace the network \(test_pt2.py, line \d+: .+packed"):
        exported(runtime, Packed().eval(), tmp_path)


def test_the_arithmetic_of_an_engine_is_named(runtime, tmp_path):
    with pytest.raises(TechniqueError, match="layer '1' uses the arithmetic of engine 'torch', which no other runtime"):
        exported(runtime, quantized("mlp", {"engine": "torch"}), tmp_path)


@pytest.mark.slow
def test_static_activations_give_the_same_outputs(tmp_path):
    torch.manual_seed(0)
    model = perform(TOY_MODELS["cnn"](), "quantization", {"activations": "static", "max_drop": 100.0})
    check_answers(exported(loading.load("pt2", "runtime"), model, tmp_path), model, tolerance=1e-6)
