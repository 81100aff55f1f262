"""LSTMs and GRUs with int8 products: their arithmetic, the guard of each stacked layer, and what the report says."""

import re

import pytest
import toolkit_quantization as quantization
import torch
from pydantic import ValidationError
from toolkit_quantization import Params, recurrent_kernels
from toolkit_quantization.conversion_cost import relative_error
from toolkit_quantization.recurrent import Int8Recurrent, multiplying
from toolkit_quantization.static.weights import overflows
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from toolkit import TechniqueError, operators
from toolkit.exports.files import export_model
from toolkit.hooks import loading
from toolkit.model_files import put_together, take_apart
from toolkit.testing import toy_data, toy_lstm

INT8 = {"recurrent": "int8", "arithmetic": "int8", "max_drop": 100.0}
LAYERS = [(kind, twice, bias) for kind in (nn.LSTM, nn.GRU) for twice, bias in ((False, True), (True, False))]


def layer_of(kind=nn.LSTM, twice=False, bias=True, stacked=2):
    torch.manual_seed(0)
    return kind(12, 16, stacked, bias=bias, batch_first=True, bidirectional=twice).eval()


def flat(result):
    outputs, state = result
    return torch.cat([each.flatten() for each in (outputs, *(state if isinstance(state, tuple) else (state,)))])


@pytest.mark.parametrize(("kind", "twice", "bias"), LAYERS)
@torch.no_grad()
def test_the_kernels_compute_what_the_plain_operations_do(kind, twice, bias, monkeypatch):
    layer, inputs = layer_of(kind, twice, bias), torch.randn(5, 9, 12)
    made = multiplying(layer, overflow_safe=True)
    fast = flat(made(inputs))
    assert 1e-4 < relative_error(fast, flat(layer(inputs))) < 0.03
    monkeypatch.setattr(recurrent_kernels, "run", None)
    monkeypatch.setattr(recurrent_kernels, "HAS_FBGEMM", False)
    # Where a value lies between two bytes, the last bit decides.
    assert relative_error(flat(multiplying(layer, overflow_safe=True)(inputs)), fast) < 2e-3


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@torch.no_grad()
def test_states_and_single_sequences_are_taken_as_torch_takes_them(kind):
    layer, inputs = layer_of(kind), torch.randn(9, 12)
    made = multiplying(layer, overflow_safe=True, integer=[1])
    state = torch.randn(2, 16)
    state = (state, state.flip(0)) if kind is nn.LSTM else state
    theirs, ours = layer(inputs, state), made(inputs, state)
    assert ours[0].shape == theirs[0].shape
    assert relative_error(flat(ours), flat(theirs)) < 0.03
    assert made.arithmetic == "int8 in 1 of 2 layers"


def test_a_tensor_is_rounded_to_bytes_with_zero_among_them():
    values = torch.tensor([[0.0, 1.0], [2.0, 255.0]])
    products = operators.byte_products(values + 0.3, torch.eye(2, dtype=torch.int8), torch.ones(2))
    assert torch.allclose(products, torch.tensor([[0.0, 1.0], [2.0, 255.0]]) * 255.3 / 255)
    assert torch.equal(operators.byte_products(values * 0, torch.eye(2, dtype=torch.int8), torch.ones(2)), values * 0)


def test_no_sum_overflows_on_processors_without_vnni():
    layer = layer_of()
    with torch.no_grad():
        layer.weight_hh_l0.fill_(1.0)
    weights = [name for name in multiplying(layer, overflow_safe=True).names if "weight" in name]
    for overflow_safe in (True, False):
        made = multiplying(layer, overflow_safe)
        assert any(overflows(getattr(made.layer, name).values) for name in weights) is not overflow_safe


class Stacked(nn.Module):
    """An LSTM of three layers and a linear layer on the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.leave = nn.LSTM(8, 16, 3, batch_first=True), nn.Linear(16, 4)

    def forward(self, inputs):
        return self.leave(self.lstm(inputs.squeeze(1))[0][:, -1])


def optimized(model, data, **params):
    made = Params(**{**INT8, **params})
    findings = quantization.prepare(made, data)
    model = quantization.optimize(model.eval(), made, data, findings)
    return model, quantization.measure(model, made, findings)


def loud_data():
    """One feature is thousands of times as large as the others; a network may well ignore it."""
    data = toy_data(64)
    for inputs, _ in (data.train, data.validation, data.test):
        inputs[..., 0] = 3e4
    return data


def stacked():
    torch.manual_seed(0)
    model = Stacked().eval()
    with torch.no_grad():
        for name, weight in model.lstm.named_parameters():
            weight *= 4 if "weight" in name else 0
        model.lstm.weight_ih_l0[:, 0] = 0
        model.leave.bias.zero_()
    return model


def test_a_stacked_layer_that_costs_too_much_keeps_float_arithmetic():
    model, measured = optimized(stacked(), loud_data(), max_error=0.1)
    assert model.lstm.integer == [1, 2]
    assert [row["arithmetic"] for row in measured["recurrent"].table] == ["float", "int8", "int8"]
    assert measured["recurrent"].text.startswith("2 of 3 recurrent layers with integer products")
    assert measured["arithmetic"].table[0]["arithmetic"] == "int8 in 2 of 3 layers"
    assert measured["output_error"] < 0.1


def test_where_every_layer_costs_too_much_none_has_integer_products():
    model, measured = optimized(toy_lstm(), toy_data(64), max_error=0.004)
    assert not any(isinstance(module, Int8Recurrent) for module in model.modules())
    assert measured["recurrent"].text.startswith("0 of 1")
    assert "batch_error" not in measured


def test_the_report_says_how_far_answers_depend_on_batch_mates():
    torch.manual_seed(0)
    _, measured = optimized(toy_lstm(), toy_data(64))
    assert 0 < measured["batch_error"] < 0.05
    sentence = r"from batch 1 to batch 16 the outputs change by 0\.\d+ of their size, and \d+\.\d% of the answers"
    assert re.search(sentence, measured["recurrent"].text)


def test_a_loud_batch_mate_drowns_the_others():
    data = toy_data(64)
    data.validation[0][0] *= 1e4
    _, measured = optimized(toy_lstm(), data, max_error=10.0)
    assert measured["batch_error"] > 0.2


def test_float_is_the_default():
    torch.manual_seed(0)
    model, measured = optimized(toy_lstm(), toy_data(64), recurrent="float")
    assert not isinstance(model.lstm, Int8Recurrent)
    assert "recurrent" not in measured


@torch.no_grad()
def test_a_loaded_file_computes_the_same():
    model, _ = optimized(toy_lstm(), toy_data(64))
    inputs = toy_data(64).example(5).inputs
    expected = model(inputs)
    loaded = put_together(take_apart(model))
    assert isinstance(loaded.lstm, Int8Recurrent)
    assert torch.equal(loaded(inputs), expected)


def test_convert_gives_all_recurrent_layers_integer_products():
    assert quantization.convert(stacked(), Params(**INT8)).lstm.integer == [0, 1, 2]


def test_a_packed_sequence_is_refused():
    with pytest.raises(TypeError, match="takes no packed sequence; give it float arithmetic"):
        multiplying(layer_of(), overflow_safe=True)(pack_sequence([torch.randn(3, 12)]))


class Packing(Stacked):
    def forward(self, inputs):
        sequences = pack_sequence(list(inputs.squeeze(1)))
        return self.leave(self.lstm(sequences)[1][0][-1])


def test_a_layer_that_is_called_with_packed_sequences_keeps_float_arithmetic():
    model, measured = optimized(Packing(), toy_data(64))
    assert not isinstance(model.lstm, Int8Recurrent)
    assert "recurrent" not in measured


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"compile": True}, "recurrent = 'int8' cannot be compiled; leave compile out"),
        ({"engine": "torch"}, "with recurrent = 'int8' engine must be 'toolkit' or 'auto', found 'torch'"),
        (
            {"rounding": "compensated"},
            "recurrent = 'int8' rounds to the nearest; leave out one of it and rounding",
        ),
        ({"activations": "static"}, "with static activations recurrent must be 'float', found 'int8'; leave it out"),
    ],
)
def test_params_that_do_not_fit(params, sentence):
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        Params(recurrent="int8", **params)


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.leave = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, inputs):
        return self.leave(self.gru(inputs.squeeze(1))[0][:, -1])


@pytest.mark.parametrize(
    ("make", "runtime", "sentence"),
    [
        (Gru, "onnxruntime", "a GRU with int8 products can only be run by PyTorch; set 'arithmetic' of this layer"),
        (Gru, "pt2", "a GRU with int8 products can only be run by PyTorch; set 'arithmetic' of this layer"),
        (stacked, "pt2", "layer 'lstm' is an LSTM that multiplies integers, which this runtime does not have; give"),
    ],
)
def test_runtimes_that_cannot_multiply_say_so(make, runtime, sentence, tmp_path):
    model, _ = optimized(make(), toy_data(64))
    plugin = loading.load(runtime, "runtime")
    with pytest.raises(TechniqueError, match=sentence):
        export_model(plugin, plugin.params_class(), model, toy_data(64), tmp_path / "folder")
