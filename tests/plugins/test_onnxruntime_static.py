"""ONNX files of statically quantized networks: whole layers run in integers, and the answers are the model's."""

import onnxruntime
import pytest
import torch
import torchvision
from exported_toys import exported, needs_valgrind, opened, outputs_without_vnni, perform
from toolkit_onnxruntime.arithmetic import optimized_graph
from toolkit_onnxruntime.model import write_onnx
from toolkit_quantization.conversion_cost import relative_error
from torch import nn

from toolkit.data.splits import Data
from toolkit.exports.judge import compare
from toolkit.hooks import loading
from toolkit.testing import TOY_MODELS, run_text, toy_data
from toolkit.testing.base import ContractBase

STATIC = {"activations": "static", "max_drop": 100.0}
# Layers of each toy: those in integers, and all.
IN_INTEGERS = {"mlp": (2, 2), "cnn": (3, 3), "lstm": (1, 2), "transformer": (2, 6), "tied": (4, 4), "outputs": (3, 3)}


def performed(model, data):
    stage = type("Performing", (ContractBase,), {"technique": "quantization", "params": STATIC, "finetune": None})()
    return stage._perform(model, data=data).model.eval()


@pytest.fixture
def runtime():
    return loading.load("onnxruntime", "runtime")


def check_toy(runtime, toy, folder):
    torch.manual_seed(0)
    model = perform(TOY_MODELS[toy](), "quantization", STATIC)
    file = exported(runtime, model, folder)
    note = runtime.call("measure", folder=file.folder, params=runtime.params_class())["arithmetic"]
    integer = sum(row["arithmetic"] == "integers" for row in note.table)
    assert (integer, len(note.table)) == IN_INTEGERS[toy]
    with opened(file, "torch") as session:
        comparison = compare(session, model, toy_data(64), "test")
    assert comparison.output_error < 1e-5
    assert comparison.agreement == 1
    return file


def operations(file):
    return [node.op_type for node in optimized_graph(file.folder / "model.onnx").node]


@pytest.mark.smoke
def test_convolutions_and_linear_layers_run_in_integers(runtime, tmp_path):
    file = check_toy(runtime, "cnn", tmp_path)
    assert [operation for operation in operations(file) if operation != "Transpose"] == [
        *("QuantizeLinear", "QLinearConv", "QLinearConv", "Reshape", "QGemm")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("toy", IN_INTEGERS)
def test_every_toy(toy, runtime, tmp_path):
    check_toy(runtime, toy, tmp_path)


class Colors(nn.Module):
    """Convolutions of three channels, one of them in groups, on pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.color, self.apart = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 6, 3, groups=3)
        self.leave = nn.Linear(6, 4)

    def forward(self, inputs):
        return self.leave(torch.relu(self.apart(torch.relu(self.color(inputs)))).mean((2, 3)))


def colored_data():
    generator = torch.Generator().manual_seed(0)
    split = torch.randn(64, 3, 8, 8, generator=generator), torch.randint(4, (64,), generator=generator)
    return Data(train=split, validation=split, test=split)


def test_three_channels_are_padded_with_zeros_and_the_sums_stay_the_same(runtime, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model, data = performed(Colors(), colored_data()), colored_data()
    example = data.example(2).inputs
    padded, plain = tmp_path / "padded.onnx", tmp_path / "plain.onnx"
    write_onnx(model, example, padded, 21)
    monkeypatch.setattr("toolkit_onnxruntime.model.pad_channels", lambda model: None)
    write_onnx(model, example, plain, 21)
    shapes = [
        {tuple(tensor.dims) for tensor in optimized_graph(file).initializer if len(tensor.dims) == 4}
        for file in (padded, plain)
    ]
    assert shapes == [{(3, 4, 3, 3), (6, 1, 3, 3)}, {(3, 3, 3, 3), (6, 1, 3, 3)}]
    sessions = [onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]) for file in (padded, plain)]
    outputs = [session.run(None, {session.get_inputs()[0].name: example.numpy()})[0] for session in sessions]
    assert (outputs[0] == outputs[1]).all()
    assert padded.stat().st_size < plain.stat().st_size + 1000
    operations = [[node.op_type for node in optimized_graph(file).node] for file in (padded, plain)]
    assert [name for name in operations[0] if name != "Pad"] == operations[1]


class Block(nn.Module):
    """Two residual additions around a max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 8, 3, padding=1)
        self.first, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.pool = nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)
        self.leave = nn.Linear(128, 4)

    def forward(self, inputs):
        outputs = torch.relu(self.enter(inputs))
        outputs = torch.relu(self.norm(self.first(outputs)) + outputs)
        outputs = self.pool(torch.relu(self.second(outputs) + outputs))
        return self.leave(outputs.flatten(1))


def test_residual_additions_and_poolings_run_in_integers(runtime, tmp_path):
    torch.manual_seed(0)
    model = perform(Block(), "quantization", STATIC)
    file = exported(runtime, model, tmp_path)
    found = operations(file)
    assert found.count("QLinearConv") == 3
    assert found.count("QLinearAdd") == 2
    assert found.count("QuantizeLinear") == 1
    assert not {"Conv", "Add", "Relu", "MaxPool"} & set(found)
    with opened(file, "torch") as session:
        assert compare(session, model, toy_data(64), "test").output_error < 1e-2


def test_layers_that_the_guard_returned_to_float_are_float_in_the_file(runtime, tmp_path):
    torch.manual_seed(0)
    model, inputs = Block().eval(), toy_data().validation[0]
    with torch.no_grad():
        error = relative_error(perform(model, "quantization", STATIC)(inputs), model(inputs))
    made = perform(model, "quantization", {**STATIC, "max_error": 0.7 * error})
    file = exported(runtime, made, tmp_path)
    note = runtime.call("measure", folder=file.folder, params=runtime.params_class())["arithmetic"]
    arithmetic = {row["layer"]: row["arithmetic"] for row in note.table}
    integer = {path for path, module in made.named_modules() if hasattr(module, "replaces")}
    assert arithmetic == {path: "integers" if path in integer else "float" for path in arithmetic}
    assert set(arithmetic.values()) == {"integers", "float"}
    with opened(file, "torch") as session:
        assert compare(session, made, toy_data(64), "test").output_error < 1e-2


TRAINED = """
[model]
source = "toolkit.testing:toy_cnn"
training = { epochs = 8, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
[[stages]]
technique = "quantization"
params = { activations = "static", max_drop = 2.0 }
[[exports]]
runtime = "onnxruntime"
"""


@pytest.mark.slow
def test_a_trained_network_loses_in_the_file_what_the_guard_accepted(tmp_path):
    baseline, stage, file = run_text(TRAINED, tmp_path).rows
    assert baseline["accuracy"] > 0.5
    assert file["accuracy"] == stage["accuracy"]
    assert file["file_agreement"] == 1
    assert stage["quantization.drop"] <= 2.0


class Extreme(nn.Module):
    """A convolution with a kernel of one pixel and a linear layer, whose products are as large as bytes allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(64, 8, 1), nn.Linear(64, 8)
        signs = torch.ones(8, 64)
        signs[1::2] = -1
        with torch.no_grad():
            self.linear.weight.copy_(signs)
            self.conv.weight.copy_(signs[:, :, None, None])

    def forward(self, inputs):
        return self.conv(inputs.reshape(-1, 64, 1, 1)).flatten(1) + self.linear(inputs.flatten(1))


def extreme():
    """Return inputs at both ends of their range, and the quantized model."""
    inputs = torch.full((64, 1, 8, 8), 2.0)
    inputs[1::2] = -2.0
    data = Data(train=(inputs, torch.zeros(64).long()), validation=(inputs, torch.zeros(64).long()), batch_size=16)
    return inputs, performed(Extreme(), data)


def test_the_largest_sums_are_those_of_exact_integers(runtime, tmp_path):
    """No sum of two products exceeds 16 bits, in which processors without VNNI add them: see the weights' own test."""
    inputs, model = extreme()
    values = model.linear.layer.weight.values.long()
    assert (values.abs().sum(1) == 64 * 64).all()
    file = exported(runtime, model, tmp_path)
    with opened(file, "torch") as session, torch.no_grad():
        torch.testing.assert_close(
            session(inputs[:4]), model.double()(inputs[:4].double()).float(), rtol=0.01, atol=0.01
        )


@pytest.mark.slow
@needs_valgrind
@pytest.mark.parametrize("name", ["extreme", "residual"])
def test_a_processor_without_vnni_gives_the_same_outputs(name, runtime, tmp_path):
    torch.manual_seed(0)
    inputs, model = (
        extreme() if name == "extreme" else (toy_data(64).example(64).inputs, perform(Block(), "quantization", STATIC))
    )
    path = exported(runtime, model, tmp_path).folder / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]
    torch.testing.assert_close(outputs_without_vnni(path, inputs, tmp_path), torch.from_numpy(outputs))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "convolutions", "additions"), [("resnet18", 20, 8), ("mobilenet_v2", 52, 10)])
def test_networks_of_torchvision_run_in_integers(name, convolutions, additions, runtime, tmp_path):
    torch.manual_seed(0)
    images, classes = torch.randn(64, 3, 64, 64), torch.randint(10, (64,))
    model = getattr(torchvision.models, name)(num_classes=10)
    with torch.no_grad():
        model(images)  # the norms of a new network have statistics of none
    data = Data(train=(images, classes), validation=(images, classes), test=(images, classes), batch_size=32)
    made = performed(model, data)
    write_onnx(made, images[:2], tmp_path / "model.onnx", 21)
    found = [node.op_type for node in optimized_graph(tmp_path / "model.onnx").node]
    assert (found.count("QLinearConv"), found.count("QLinearAdd")) == (convolutions, additions)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    with torch.no_grad():
        assert (outputs.argmax(1) == made(images).argmax(1)).float().mean() >= 0.95
