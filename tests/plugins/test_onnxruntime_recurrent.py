"""ONNX files of LSTMs with int8 products: the operator of ONNX Runtime computes what the model does."""

import pytest
import torch
from exported_toys import check_answers, exported, opened
from toolkit_onnxruntime.arithmetic import optimized_graph
from toolkit_quantization.recurrent import multiplying
from torch import nn

from toolkit.exports.judge import compare
from toolkit.hooks import loading
from toolkit.testing import toy_data


class Recurrent(nn.Module):
    """An LSTM of two layers over the rows of an image, and a linear layer on outputs and last states."""

    def __init__(self, twice, bias) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12, 2, bias=bias, bidirectional=twice, batch_first=True)
        self.leave = nn.Linear(12, 4)

    def forward(self, inputs):
        outputs, (hidden, cell) = self.lstm(inputs.squeeze(1))
        return self.leave(outputs[:, -1, :12] + hidden[-1] + cell[0])


@pytest.fixture
def runtime():
    return loading.load("onnxruntime", "runtime")


def recurrent(twice, bias, integer):
    torch.manual_seed(0)
    model = Recurrent(twice, bias).eval()
    model.lstm = multiplying(model.lstm, overflow_safe=True, integer=integer)
    return model


@pytest.mark.parametrize(
    ("twice", "bias", "integer"),
    [
        (True, True, [0, 1]),
        pytest.param(False, True, [1], marks=pytest.mark.slow),
        pytest.param(False, False, [0, 1], marks=pytest.mark.slow),
        pytest.param(True, False, [0], marks=pytest.mark.slow),
    ],
)
def test_outputs_are_those_of_the_model_at_every_batch_size(twice, bias, integer, runtime, tmp_path):
    model = recurrent(twice, bias, integer)
    file = exported(runtime, model, tmp_path)
    operations = [node.op_type for node in optimized_graph(file.folder / "model.onnx").node]
    assert operations.count("DynamicQuantizeLSTM") == len(integer)
    assert operations.count("LSTM") == 2 - len(integer)
    with opened(file, "torch") as session:
        comparison = compare(session, model, toy_data(64), "test")
    assert comparison.output_error < 2e-3  # where a value lies between two bytes, the last bit decides
    assert comparison.agreement == 1


@pytest.mark.slow
def test_the_report_lists_each_stacked_layer_with_its_arithmetic(runtime, tmp_path):
    file = exported(runtime, recurrent(False, True, [1]), tmp_path)
    note = runtime.call("measure", folder=file.folder, params=runtime.params_class())["arithmetic"]
    assert [(row["layer"], row["arithmetic"]) for row in note.table][:2] == [("lstm", "float"), ("lstm", "integers")]
    assert note.text.endswith("share the scales of 'lstm', so that an answer depends on its batch mates")


class Loud(nn.Module):
    """An LSTM whose sums are as large as bytes allow."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, 16, batch_first=True)
        with torch.no_grad():
            for name, weight in self.lstm.named_parameters():
                weight.fill_(0.002 if "weight" in name else 0.0)

    def forward(self, inputs):
        return self.lstm(inputs.flatten(1)[:, None].abs().clamp(min=1.0, max=1.0))[0][:, 0]


def test_the_largest_sums_are_those_of_exact_integers(runtime, tmp_path):
    model = Loud().eval()
    with torch.no_grad():
        expected = model(toy_data(64).example(4).inputs)
    model.lstm = multiplying(model.lstm, overflow_safe=True)
    file = exported(runtime, model, tmp_path)
    check_answers(file, model)
    with opened(file) as session:
        torch.testing.assert_close(session(toy_data(64).example(4).inputs), expected, rtol=0.02, atol=0)
