"""ONNX files: integers and outputs are those of the model, and errors name what cannot be exported."""

import shutil
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec

import numpy
import onnx
import onnxruntime
import pytest
import torch
from exported_toys import (
    DTYPES,
    INT8,
    check_answers,
    exported,
    needs_valgrind,
    opened,
    outputs_without_vnni,
    perform,
    quantized,
)
from pydantic import ValidationError
from toolkit_onnxruntime.arithmetic import optimized_graph
from torch import nn

from toolkit import operators
from toolkit.errors import TechniqueError
from toolkit.hooks import loading
from toolkit.testing import TOY_MODELS, toy_mlp

# Layers of each toy: all, and those that are linear and can multiply integers.
LAYERS = {"mlp": (2, 2), "cnn": (3, 1), "lstm": (2, 1), "transformer": (8, 8), "tied": (4, 4), "outputs": (3, 1)}


@pytest.fixture
def runtime():
    return loading.load("onnxruntime", "runtime")


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory):
    return exported(loading.load("onnxruntime", "runtime"), toy_mlp().eval(), tmp_path_factory.mktemp("once"))


@pytest.fixture
def mlp_file(exported_once, tmp_path):
    """A copy of an exported file, to be changed."""
    return replace(exported_once, folder=shutil.copytree(exported_once.folder, tmp_path / "onnx"))


def nodes(file):
    return Counter(node.op_type for node in onnx.load(file.folder / "model.onnx").graph.node)


@pytest.fixture(scope="module")
def int8_cnn(tmp_path_factory):
    """A toy that multiplies in integers, and its file."""
    model = quantized("cnn", INT8)
    return model, exported(loading.load("onnxruntime", "runtime"), model, tmp_path_factory.mktemp("int8"))


def check_file(runtime, toy, dtype, folder):
    """Export a toy, compare all outputs at unusual batch sizes, and return the counts of operations."""
    model = quantized(toy, DTYPES[dtype])
    return checked(runtime, toy, dtype, model, exported(runtime, model, folder))


def checked(runtime, toy, dtype, model, file):
    # A last bit of a convolution decides between two integers.
    check_answers(file, model, "torch", tolerance=5e-3 if dtype == "int8" else 1e-5)
    layers = runtime.call("measure", folder=file.folder, params=runtime.params_class())["arithmetic"]
    integer = LAYERS[toy][1] if dtype == "int8" else 0
    assert sum(row["arithmetic"] == "integers" for row in layers.table) == integer
    # In float, attention multiplies by the weights of query, key and value at once.
    assert len(layers.table) == (6 if toy == "transformer" and dtype != "int8" else LAYERS[toy][0])
    return nodes(file), layers


@pytest.mark.smoke
def test_int8_is_multiplied_in_integers(runtime, int8_cnn):
    counts, note = checked(runtime, "cnn", "int8", *int8_cnn)
    assert counts["MatMulInteger"] == 1
    assert counts["DequantizeLinear"] == 3  # of two stored weights, and of the sums
    assert note.text == "1 of 3 layers multiplies in integers"
    assert [row["layer"] for row in note.table] == ["0", "3", "6"]
    assert [row["arithmetic"] for row in note.table] == ["float", "float", "integers"]


@pytest.mark.parametrize(
    ("toy", "dtype", "operation", "count"),
    [
        pytest.param("lstm", "int8", "DequantizeLinear", 3, marks=pytest.mark.slow),
        ("mlp", "int4", "BitwiseAnd", 2),
        ("cnn", "int2", "BitwiseAnd", 9),
        ("outputs", "float16", "Cast", 3),
    ],
)
def test_outputs_are_those_of_the_model_and_weights_stay_as_stored(toy, dtype, operation, count, runtime, tmp_path):
    counts, _ = check_file(runtime, toy, dtype, tmp_path)
    assert counts[operation] == count


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("toy", TOY_MODELS)
def test_every_toy_in_every_dtype(toy, dtype, runtime, tmp_path):
    check_file(runtime, toy, dtype, tmp_path)


def test_a_tied_weight_is_stored_once(runtime, tmp_path):
    file = exported(runtime, quantized("tied", INT8), tmp_path)
    tensors = onnx.load(file.folder / "model.onnx").graph.initializer
    stored = [tuple(tensor.dims) for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8]
    assert sorted(stored) == [(4, 16), (16, 16), (16, 64)]


@pytest.mark.parametrize(
    "dtype", ["int4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("int2", "int8", "float16"))]
)
def test_large_weights_are_stored_in_few_bytes(dtype, runtime, tmp_path):
    torch.manual_seed(0)
    model = perform(toy_mlp(1024), "quantization", DTYPES[dtype])
    weights = 1024 * 64 + 1024 * 4
    bytes_each = {"int8": 1, "int4": 0.5 + 4 / 32, "int2": 0.25 + 4 / 32, "float16": 2}[dtype]
    assert exported(runtime, model, tmp_path).size_bytes < bytes_each * weights + 20_000


class Int8(nn.Module):
    """A linear layer of int8 with given integers, without scales to round."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", torch.ones(len(weight)))

    def forward(self, inputs):
        return operators.int8_linear(inputs.flatten(1), self.weight, self.scale, None)


def take_branch_of_others(file):
    """Let the file believe that one product of all bytes is not exact on this processor."""
    model = onnx.load(file.folder / "model.onnx")
    (comparison,) = [node for node in model.graph.node if node.op_type == "Equal"]
    (expected,) = [tensor for tensor in model.graph.initializer if tensor.name == comparison.input[1]]
    expected.CopyFrom(onnx.numpy_helper.from_array(numpy.array(-1, numpy.int32), expected.name))
    (file.folder / "model.onnx").write_bytes(model.SerializeToString())
    return optimized_graph(file.folder / "model.onnx")


def run(model, rows):
    session = onnxruntime.InferenceSession(model.SerializeToString() if hasattr(model, "graph") else model)
    return session.run(None, {session.get_inputs()[0].name: rows.reshape(-1, 1, 8, 8).numpy()})


def largest_integers(rows=127.0):
    """Rows and a weight of the largest integers of random signs; the first of each have one sign."""
    generator = torch.Generator().manual_seed(0)
    weight = 127 * (2 * torch.randint(2, (32, 64), generator=generator) - 1).to(torch.int8)
    weight[0] = 127
    inputs = rows * (2 * torch.randint(2, (16, 64), generator=generator) - 1)
    inputs[0] = rows
    return inputs, weight


@pytest.mark.parametrize("branch", ["of this processor", "of processors without VNNI"])
def test_sums_of_the_largest_integers_are_exact(branch, runtime, tmp_path):
    rows, weight = largest_integers()
    file = exported(runtime, Int8(weight), tmp_path)
    if branch == "of processors without VNNI":
        take_branch_of_others(file)
    (outputs,) = run(file.folder / "model.onnx", rows)
    assert torch.equal(torch.from_numpy(outputs).double(), rows.double() @ weight.double().t())


@pytest.mark.parametrize("is_signed", [True, False])
def test_no_byte_of_a_product_can_overflow_without_vnni(is_signed, runtime, tmp_path):
    """Adds pairs of products in 16 bits, as x86 does without VNNI, on the bytes that the file multiplies."""
    rows, weight = largest_integers(255.0)
    weight[0] = -128
    network = Int8(weight) if is_signed else nn.Sequential(nn.ReLU(), Int8(weight))
    file = exported(runtime, network, tmp_path)
    graph = take_branch_of_others(file) if is_signed else optimized_graph(file.folder / "model.onnx")
    (product,) = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(product.input) == 2  # a zero point would be subtracted after an overflow
    graph.output.append(onnx.helper.make_tensor_value_info(product.input[0], onnx.TensorProto.UINT8, None))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    sent = run(model, rows)[-1].astype(int)
    pairs = sent[:, None, :] * weight.numpy().astype(int)
    pairs = pairs[..., ::2] + pairs[..., 1::2]
    assert sent.max() == 127
    assert pairs.min() >= -(2**15)
    assert pairs.max() < 2**15


@pytest.mark.slow
def test_layers_keep_their_names_on_other_processors(runtime, tmp_path):
    file = exported(runtime, quantized("transformer", INT8), tmp_path)
    here = runtime.call("measure", folder=file.folder, params=runtime.params_class())["arithmetic"]
    assert not [node for node in take_branch_of_others(file).node if node.op_type == "If"]
    there = runtime.call("measure", folder=file.folder, params=runtime.params_class())["arithmetic"]
    assert sorted(row["layer"] for row in there.table) == sorted(row["layer"] for row in here.table)
    assert there.text == here.text == "8 of 8 layers multiply in integers"


def test_after_a_relu_one_product_is_exact_on_every_processor(runtime, tmp_path):
    counts, _ = check_file(runtime, "mlp", "int8", tmp_path)
    assert (counts["If"], counts["MatMulInteger"], counts["Relu"]) == (1, 2, 0)  # one of them is that of the condition


@pytest.mark.slow
@needs_valgrind
def test_sums_on_a_processor_without_vnni(runtime, tmp_path):
    weight, rows = torch.full((32, 64), 127, dtype=torch.int8), torch.full((16, 1, 8, 8), 127.0)
    file = exported(runtime, Int8(weight), tmp_path)
    outputs = outputs_without_vnni(file.folder / "model.onnx", rows, tmp_path)
    assert torch.equal(outputs, rows.flatten(1) @ weight.float().t())


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, inputs):
        outputs = self.layer(inputs.flatten(1))
        return outputs if outputs.sum() > 0 else -outputs


class Airy(nn.Module):
    def forward(self, inputs):
        return torch.special.airy_ai(inputs)


def airy():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), Airy())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            Branch,
            r"control flow depends on the values of its inputs \(test_onnxruntime.py, line \d+: return",
        ),
        (airy, "layer '2' uses the operation aten.special_airy_ai, which ONNX does not have"),
        (
            lambda: quantized("mlp", {"engine": "torch"}),
            "layer '1' uses the arithmetic of engine 'torch', which no other runtime has; quantize with `engine` 'too",
        ),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(make, sentence, runtime, tmp_path, capfd):
    with pytest.raises(TechniqueError, match=sentence) as problem:
        exported(runtime, make().eval(), tmp_path)
    assert "\n" not in str(problem.value)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
def test_torchao_is_named(runtime, tmp_path):
    with pytest.raises(TechniqueError, match="uses the arithmetic of engine 'torchao'"):
        exported(runtime, quantized("mlp", {"engine": "torchao"}), tmp_path)


@pytest.mark.parametrize("opset", [20, 24, "new"])
def test_an_opset_out_of_range(opset, runtime):
    with pytest.raises(ValidationError, match="opset"):
        runtime.params_class(opset=opset)


@pytest.mark.parametrize("opset", [pytest.param(22, marks=pytest.mark.slow), 23])
def test_other_opsets(opset, runtime, tmp_path):
    file = exported(runtime, quantized("mlp", INT8), tmp_path, opset=opset)
    assert [entry.version for entry in onnx.load(file.folder / "model.onnx").opset_import if not entry.domain] == [
        opset
    ]
    onnxruntime.InferenceSession(file.folder / "model.onnx")


def with_external(file, location, place):
    """Let a tensor of the file lie at `location`: an initializer, or a constant inside a function."""
    path = file.folder / "model.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    if place == "function":
        constant = onnx.helper.make_node("Constant", [], ["value"], value=tensor)
        opset = [onnx.helper.make_opsetid("", 21)]
        model.functions.append(onnx.helper.make_function("local", "f", [], ["value"], [constant], opset))
        tensor = model.functions[0].node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("place", ["initializer", "function"])
@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "..\\secret", "C:\\secret", "", "link", "missing"])
def test_tensors_outside_the_folder_are_refused(location, place, mlp_file, runtime):
    (mlp_file.folder.parent / "secret").write_bytes(bytes(10_000))
    (mlp_file.folder / "link").symlink_to(mlp_file.folder.parent / "secret")
    with_external(mlp_file, location, place)
    with pytest.raises(
        TechniqueError, match=r"refused in check: model.onnx reads the tensor '[^']+' from .* do not op"
    ):
        runtime.call("check", folder=mlp_file.folder)


def test_tensors_inside_the_folder_pass(mlp_file, runtime):
    (mlp_file.folder / "model.data").write_bytes(bytes(10_000))
    with_external(mlp_file, "model.data", "initializer")
    runtime.call("check", folder=mlp_file.folder)


def test_a_file_that_is_not_onnx(runtime, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(TechniqueError, match=r"model\.onnx is not an ONNX file; export the model again"):
        runtime.call("check", folder=tmp_path)


def test_the_file_says_nothing_of_this_machine(int8_cnn):
    _, file = int8_cnn
    content = (file.folder / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_a_dictionary_is_returned_as_one(runtime, tmp_path):
    file = exported(runtime, TOY_MODELS["outputs"]().eval(), tmp_path)
    with opened(file, "torch") as session:
        outputs = session(torch.zeros(3, 1, 8, 8))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {"logits": (3, 4), "features": (3, 8)}
