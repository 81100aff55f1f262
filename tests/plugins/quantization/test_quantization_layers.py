"""Layers of every kind in fewer bits: what they compute, keep, share, and how they are saved, copied and refused."""

import copy
import math
import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import toolkit_quantization
import torch
from test_quantization import DATA, quantize, reasons, torch_dynamic, torch_engine  # noqa: F401
from toolkit_quantization import Params, layers, relative_error
from toolkit_quantization import stored as stored_layers
from toolkit_quantization.attention import Int8Attention
from toolkit_quantization.codecs import Encoded
from toolkit_quantization.int8 import Int8Linear, quantize_per_channel
from toolkit_quantization.stored import Stored, StoredEmbedding, StoredWeight
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_leaves

import toolkit
from toolkit import masks, timing
from toolkit import model_files as artifact
from toolkit.metrics import counts, macs
from toolkit.report.layers import layers_of
from toolkit.timing import Timings

DTYPES = ["int8", "int4", "int2", "float16", "bfloat16"]


def floats(*shape: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda batch: (torch.randn(batch, *shape),)


def steps(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(7, batch, 10),)


def first(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 7, 10),)


def indices(*shape: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda batch: (torch.randint(0, 20, (batch, *shape)),)


def bags(batch: int) -> tuple[Tensor, ...]:
    return torch.randint(0, 20, (4 * batch,)), torch.arange(0, 4 * batch, 4), torch.rand(4 * batch)


def attended(batch: int, keys: int = 12, values: int = 12) -> tuple[Tensor, ...]:
    return torch.randn(batch, 5, 12), torch.randn(batch, 7, keys), torch.randn(batch, 7, values)


def itself(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 6, 12),) * 3


RECURRENT = {
    f"{kind.__name__} {name}": (lambda kind=kind, options=options: kind(10, 16, **options), inputs)
    for kind in (nn.LSTM, nn.GRU, nn.RNN)
    for name, options, inputs in (
        ("plain", {}, steps),
        ("batch first", {"batch_first": True}, first),
        ("two ways in three layers", {"num_layers": 3, "bidirectional": True, "batch_first": True}, first),
        ("without biases", {"bias": False}, steps),
    )
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]]]] = {
    "Linear": (lambda: nn.Linear(33, 5), floats(33)),
    "Linear without bias": (lambda: nn.Linear(33, 5, bias=False), floats(4, 33)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, dilation=2), floats(4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2, padding="valid"), floats(4, 9, 8)),
    "Conv2d around the edges": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), floats(4, 9, 8)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 3), bias=False), floats(2, 4, 5, 6)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), floats(4, 9)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), floats(4, 5, 5)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2), floats(2, 3, 3, 3)),
    "Embedding": (lambda: nn.Embedding(20, 6, padding_idx=3), indices(5)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(20, 6, mode="max"), indices(5)),
    "EmbeddingBag of padding": (lambda: nn.EmbeddingBag(20, 6, padding_idx=3, mode="mean"), indices(50)),
    "EmbeddingBag of weights": (lambda: nn.EmbeddingBag(20, 6, padding_idx=19, mode="sum"), bags),
    **RECURRENT,
    "RNN of rectifiers": (lambda: nn.RNN(10, 16, nonlinearity="relu"), steps),
    "LSTM with projections": (lambda: nn.LSTM(10, 16, 2, proj_size=5, bidirectional=True), steps),
    "LSTMCell": (lambda: nn.LSTMCell(10, 16), floats(10)),
    "GRUCell": (lambda: nn.GRUCell(10, 16, bias=False), floats(10)),
    "RNNCell": (lambda: nn.RNNCell(10, 16), floats(10)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(12, 4, batch_first=True), itself),
    "MultiheadAttention to others": (lambda: nn.MultiheadAttention(12, 3, batch_first=True, bias=False), attended),
    "MultiheadAttention of sizes": (
        lambda: nn.MultiheadAttention(12, 2, kdim=8, vdim=9, batch_first=True),
        lambda batch: attended(batch, 8, 9),
    ),
    "MultiheadAttention with zeros": (
        lambda: nn.MultiheadAttention(12, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True),
        attended,
    ),
}
WITH_PRODUCTS = ["Linear", "Linear without bias", *[name for name in LAYERS if "Attention" in name][:3]]


def made(name: str, **options: Any) -> tuple[nn.Module, Any, Callable[[int], tuple[Tensor, ...]]]:
    """A layer, its successor, and what makes their inputs."""
    make, inputs = LAYERS[name]
    layer = make().eval()
    for path, parameter in layer.named_parameters():  # attention begins with biases of zero
        if "bias" in path:
            nn.init.normal_(parameter, std=0.1)
    return layer, layers.successor(layer, **options), inputs


def with_weights_of(layer: nn.Module, successor: Any) -> nn.Module:
    """A float layer with the weights that the successor stands for."""
    twin = copy.deepcopy(layer).requires_grad_(False)
    found = successor.dense_weights() if hasattr(successor, "dense_weights") else None
    found = found or {"weight": successor.dense_weight(), "bias": successor.bias}
    twin.load_state_dict({name: tensor for name, tensor in found.items() if tensor is not None})
    return twin


def tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def assert_same(outputs: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for output, other in zip(tensors(outputs), tensors(expected), strict=True):
        torch.testing.assert_close(output, other, rtol=rtol, atol=atol)


# What a layer computes and keeps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_stored_layer_computes_what_the_layer_computes_with_the_weights_that_are_stored(name, dtype):
    layer, stored, inputs = made(name, dtype=dtype)
    expected = with_weights_of(layer, stored)
    for batch in (1, 3):
        args = inputs(batch)
        assert_same(stored(*args), expected(*args))
        with torch.no_grad():
            assert_same(stored(*args), expected(*args))
    kind = layer.__class__.__name__
    assert (stored.replaces, stored.precision) == (kind, dtype)
    assert not list(stored.parameters())
    largest = {"int8": 0.02, "int4": 0.12, "int2": 0.6, "float16": 3e-4, "bfloat16": 3e-3}[dtype]
    for path, parameter in layer.named_parameters():
        kept = stored.dense_weights()[path]
        assert (kept.shape, kept.dtype) == (parameter.shape, parameter.dtype)
        assert torch.equal(kept, parameter) if "bias" in path else 0 < relative_error(kept, parameter) < largest


@pytest.mark.parametrize("name", LAYERS)
def test_int8_is_rounded_per_row_with_zeros_kept(name):
    layer = LAYERS[name][0]()
    keep = {path: torch.rand(weight.shape) < 0.5 for path, weight in layer.named_parameters() if "bias" not in path}
    for path, kept in keep.items():
        layer.get_parameter(path).data.mul_(kept)
    stored = layers.successor(layer)
    for path in keep:
        weight = layer.get_parameter(path).detach().flatten(1).double()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / 127
        found = stored.dense_weights()[path].flatten(1).double()
        assert ((found / scale).round() - found / scale).abs().max() < 1e-4
        assert ((found - weight) / scale).abs().max() <= 0.5001
        assert (found[weight == 0] == 0).all()


@pytest.mark.parametrize("name", WITH_PRODUCTS)
@pytest.mark.smoke
def test_int8_products_are_those_of_the_same_integers(name):
    layer, int8, inputs = made(name, arithmetic="int8")
    stored = layers.successor(layer)
    assert isinstance(int8, Int8Linear | Int8Attention)
    expected = with_weights_of(layer, stored)
    assert_same(with_weights_of(layer, int8).state_dict(), expected.state_dict(), rtol=0.0, atol=0.0)
    args = inputs(3)
    for output, other in zip(tensors(int8(*args)), tensors(expected(*args)), strict=True):
        assert 0 < relative_error(output, other) < 0.03


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in WITH_PRODUCTS])
def test_a_layer_without_int8_products_computes_in_float(name):
    _, successor, _ = made(name, arithmetic="int8")
    assert isinstance(successor, Stored)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_nothing_is_looked_up_in_an_embedding(shape, dtype):
    _, successor, _ = made("Embedding", dtype=dtype)
    assert successor(torch.empty(shape, dtype=torch.long)).shape == (*shape, 6)


def test_other_dtypes_have_no_int8_products():
    assert isinstance(layers.successor(nn.Linear(4, 4), "int4", "int8"), Stored)


@pytest.mark.parametrize("arithmetic", ["int8", "float"])
@pytest.mark.parametrize("name", LAYERS)
def test_an_output_does_not_depend_on_batch_mates(name, arithmetic):
    _, successor, inputs = made(name, arithmetic=arithmetic)
    if name == "EmbeddingBag of weights":
        return  # its bags have no dimension for a batch
    args, others = inputs(11), [other * 1000 if other.is_floating_point() else other for other in inputs(11)]
    place = args[0].shape.index(11)
    mixed = [
        torch.cat((a.narrow(place, 0, 1), b.narrow(place, 1, 10)), place) for a, b in zip(args, others, strict=True)
    ]
    if len({id(arg) for arg in args}) == 1:
        mixed = [mixed[0]] * len(mixed)
    with torch.no_grad():
        outputs, expected = tensors(successor(*mixed))[0], tensors(successor(*args))[0]
    assert torch.equal(outputs.narrow(place, 0, 1), expected.narrow(place, 0, 1))


# What the toolkit sees of a layer


class Feeding(nn.Module):
    """A model that gives its inputs to one layer, and returns the first of its outputs."""

    def __init__(self, layer: nn.Module, times: int) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, inputs: Tensor) -> Tensor:
        return tensors(self.layer(*[inputs] * self.times))[0]


@pytest.mark.parametrize("arithmetic", ["int8", "float"])
@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("EmbeddingBag of weights")])
def test_parameters_macs_and_the_table_of_layers_are_those_of_the_layer(name, arithmetic):
    layer, successor, inputs = made(name, arithmetic=arithmetic)
    args = inputs(8)
    times = 3 if "Attention" in name else 1
    data = replace(DATA, train=(args[0], torch.zeros(len(args[0])).long()), validation=None)
    before, after = Feeding(layer, times), Feeding(successor, times)
    assert counts(after)["parameters"] == counts(before)["parameters"]
    if not isinstance(layer, nn.MultiheadAttention) or layer.kdim == layer.vdim:
        assert macs(after, data) == macs(before, data)
    [row] = layers_of(after)
    assert row.kind == f"{type(successor).__name__} for {type(layer).__name__}"
    assert row.weights == sum(weight.numel() for weight in layer.parameters() if weight.dim() > 1)
    assert row.precision == "int8"


# Two groups of 32 take 40 inputs, each with a scale of two bytes.
@pytest.mark.parametrize(("dtype", "bytes_"), [("int4", 40 * (32 + 2 * 2)), ("float16", 40 * 40 * 2)])
def test_the_table_of_layers_names_the_bits_and_what_they_take(dtype, bytes_):
    [row] = layers_of(layers.successor(nn.Linear(40, 40), dtype))
    assert (row.precision, row.weights) == (dtype, 1600)
    assert row.size_bytes == bytes_ + 4 * 40


# Sequences


def packed(batch: Tensor) -> PackedSequence:
    return pack_padded_sequence(batch, [3, 7, 1, 5], batch_first=True, enforce_sorted=False)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("sizes", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 5}])
def test_packed_sequences_and_states_are_those_of_the_layer(kind, sizes):
    if "proj_size" in sizes and kind is not nn.LSTM:
        pytest.skip("only LSTMs have projections")
    layer = kind(10, 16, batch_first=True, **sizes)
    stored = layers.successor(layer)
    expected = with_weights_of(layer, stored)
    batch = torch.randn(4, 7, 10)
    with torch.no_grad():
        outputs, state = stored(packed(batch))
        other_outputs, other_state = expected(packed(batch))
        assert torch.equal(outputs.batch_sizes, other_outputs.batch_sizes)
        assert_same((outputs.data, state), (other_outputs.data, other_state))
        assert_same(stored(batch, state), expected(batch, other_state))
        alone = stored(batch[0])
        assert_same(alone, expected(batch[0]))
        # In two parts, with the state handed on, as at once.
        if not sizes.get("bidirectional"):
            _, halfway = stored(batch[:, :3])
            rest, end = stored(batch[:, 3:], halfway)
            whole, last = stored(batch)
            assert_same((rest, end), (whole[:, 3:], last))


def test_a_recurrent_layer_can_be_asked_what_networks_ask_it():
    lstm = layers.successor(nn.LSTM(10, 16, 2, bidirectional=True))
    lstm.flatten_parameters()
    assert (lstm.hidden_size, lstm.num_layers, lstm.bidirectional, lstm.batch_first) == (16, 2, True, False)
    assert lstm.weight_ih_l0.shape == (64, 10)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lstm.nothing


def test_no_float_copy_is_left_behind_by_a_call():
    stored = layers.successor(nn.LSTM(10, 16, 2))
    stored(torch.randn(7, 3, 10))
    held = [part for part in stored.modules() if isinstance(part, Encoded)]
    assert len(held) == 4
    lists = [value for module in stored.modules() for value in vars(module).values() if isinstance(value, list)]
    assert not any(isinstance(item, Tensor) and item.dim() > 1 for values in lists for item in values)
    assert all(buffer.dim() == 1 or buffer.dtype == torch.int8 for buffer in stored.buffers())


def test_gradients_reach_the_inputs_of_a_stored_layer():
    stored = layers.successor(nn.GRU(10, 16))
    inputs = torch.randn(7, 3, 10, requires_grad=True)
    stored(inputs)[0].sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0


# Attention


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("arithmetic", ["int8", "float"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"need_weights": False},
        {"average_attn_weights": False},
        {"attn_mask": torch.ones(6, 6).triu(1).bool()},
        {"attn_mask": torch.ones(6, 6).triu(1).bool(), "is_causal": True, "need_weights": False},
        {"attn_mask": torch.randn(3 * 4, 6, 6)},
        {"key_padding_mask": torch.arange(6).expand(3, 6) >= torch.tensor([[6], [4], [2]])},
        {"key_padding_mask": torch.randn(3, 6), "attn_mask": torch.randn(6, 6), "need_weights": False},
    ],
)
def test_attention_takes_masks_and_gives_weights_as_the_layer_does(options, arithmetic, batch_first):
    layer = nn.MultiheadAttention(12, 4, batch_first=batch_first).eval()
    successor: Any = layers.successor(layer, arithmetic=arithmetic)
    expected = with_weights_of(layer, successor)
    inputs = torch.randn(3, 6, 12) if batch_first else torch.randn(6, 3, 12)
    outputs, weights = successor(inputs, inputs, inputs, **options)
    other, other_weights = expected(inputs, inputs, inputs, **options)
    assert relative_error(outputs, other) < (0.03 if arithmetic == "int8" else 1e-6)
    assert (weights is None) == (other_weights is None)
    if weights is not None:
        assert weights.shape == other_weights.shape
        assert relative_error(weights, other_weights) < (0.03 if arithmetic == "int8" else 1e-6)


@pytest.mark.parametrize("arithmetic", ["int8", "float"])
def test_attention_to_one_sequence_without_a_batch(arithmetic):
    layer = nn.MultiheadAttention(12, 4)
    successor: Any = layers.successor(layer, arithmetic=arithmetic)
    expected = with_weights_of(layer, successor)
    args = torch.randn(5, 12), torch.randn(7, 12), torch.randn(7, 12)
    padding = torch.arange(7) > 4
    for output, other in zip(successor(*args, padding), expected(*args, padding), strict=True):
        assert output.shape == other.shape
        assert relative_error(output, other) < 0.03
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        successor(*args, is_causal=True)


class Encoder(nn.Module):
    """A transformer encoder over eight tokens of eight numbers, with or without padding, in two orders of norms."""

    padding: Tensor

    def __init__(self, padded: bool, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=not norm_first)
        self.classify = nn.Linear(8, 4)
        self.register_buffer("padding", (torch.arange(8) >= 5) & torch.tensor(padded))

    def forward(self, inputs: Tensor) -> Tensor:
        padding = self.padding.expand(len(inputs), 8)
        return self.classify(self.encoder(inputs.squeeze(1), src_key_padding_mask=padding)[:, 0])


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("arithmetic", ["int8", "float"])
def test_transformer_encoders_in_eval_mode(padded, norm_first, arithmetic):
    model = Encoder(padded, norm_first).eval()
    result = quantize(model, arithmetic=arithmetic)
    inputs = DATA.example(16).inputs
    with torch.no_grad():
        outputs, alone, expected = result(inputs), result(inputs[3:4]), model(inputs)
        loaded = artifact.put_together(artifact.take_apart(result), allow=[Encoder]).eval()
        assert torch.equal(loaded(inputs), outputs)
    assert 0 < relative_error(outputs, expected) < 0.05
    torch.testing.assert_close(alone, outputs[3:4], rtol=1e-4, atol=1e-5)
    names = [path for path, _ in layers.converted(result)]
    parts = [f"encoder.layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn", "linear1", "linear2")]
    assert names == [*parts, "classify"]
    assert set(reasons(result).values()) == {"LayerNorm: not a kind of layer that is quantized"}


@pytest.mark.parametrize("arithmetic", ["int8", "float"])
def test_a_transformer_with_a_decoder(arithmetic):
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)

        def forward(self, inputs: Tensor) -> Tensor:
            rows = inputs.squeeze(1)
            causal = nn.Transformer.generate_square_subsequent_mask(8)
            return self.transformer(rows, rows.flip(1), tgt_mask=causal, tgt_is_causal=True).flatten(1)[:, :4]

    model = Translator().eval()
    inputs = DATA.example(16).inputs
    result = quantize(model, arithmetic=arithmetic)
    assert len(list(layers.converted(result))) == 7
    assert 0 < relative_error(result(inputs), model(inputs)) < 0.05


# What is shared


class TiedWords(nn.Module):
    """An embedding whose weight is that of the output layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Embedding(20, 6)
        self.leave = nn.Linear(6, 20)
        self.leave.weight = self.enter.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.leave(self.enter(inputs).mean(dim=1))


def words() -> toolkit.Data:
    inputs, targets = torch.randint(0, 20, (64, 5)), torch.randint(0, 20, (64,))
    return replace(DATA, train=(inputs, targets), validation=None)


@pytest.mark.parametrize("arithmetic", ["int8", "float"])
def test_an_embedding_and_the_output_layer_stay_tied_in_memory_and_in_the_file(arithmetic):
    model = TiedWords()
    result: Any = quantize(model, words(), arithmetic=arithmetic)
    assert isinstance(result.enter, StoredEmbedding)
    held = {id(buffer): buffer for buffer in result.buffers() if buffer.dtype == torch.int8}
    assert [buffer.shape for buffer in held.values()] == [(20, 6)]
    assert counts(result)["parameters"] == counts(model)["parameters"] == 20 * 6 + 20
    parts = artifact.take_apart(result)
    assert [tensor.shape for tensor in parts.tensors.values() if tensor.dtype == torch.int8] == [(20, 6)]
    loaded = artifact.put_together(parts, allow=[TiedWords]).eval()
    inputs = torch.randint(0, 20, (3, 5))
    assert torch.equal(loaded(inputs), result(inputs))
    assert len({id(buffer) for buffer in loaded.buffers() if buffer.dtype == torch.int8}) == 1


def test_a_layer_under_two_names_becomes_one():
    lstm = nn.LSTM(8, 8, batch_first=True)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.classify = lstm, lstm, nn.Linear(8, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.classify(self.second(self.first(inputs.squeeze(1))[0])[0][:, -1])

    result: Any = quantize(Twice())
    assert isinstance(result.first, Stored)
    assert result.first is result.second


def test_weights_that_lstms_share_are_kept_once():
    model: Any = nn.ModuleList([nn.LSTM(8, 8), nn.LSTM(8, 8)])
    model[1].weight_hh_l0, model[1].bias_hh_l0 = model[0].weight_hh_l0, model[0].bias_hh_l0
    result: Any = toolkit_quantization.convert(model, Params())
    assert result[0].layer.weight_hh_l0 is result[1].layer.weight_hh_l0
    assert result[0].bias_hh_l0 is result[1].bias_hh_l0
    assert result[0].layer.weight_ih_l0 is not result[1].layer.weight_ih_l0


# Saving, copying, moving


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(dtype, marks=[] if dtype in ("int8", "int4", "float16") else [pytest.mark.slow]) for dtype in DTYPES],
)
@pytest.mark.parametrize("name", LAYERS)
def test_a_saved_and_a_copied_layer_give_the_same_bits(name, dtype, tmp_path):
    _, stored, inputs = made(name, dtype=dtype)
    args = inputs(3)
    with torch.no_grad():
        expected = stored(*args)
        for name, content in artifact.pack(stored).items():
            (tmp_path / name).write_bytes(content)
        for twin in (toolkit.load(tmp_path), masks.clone(stored), copy.deepcopy(stored)):
            assert_same(twin(*args), expected, rtol=0.0, atol=0.0)
            assert not {id(buffer) for buffer in twin.buffers()} & {id(buffer) for buffer in stored.buffers()}


@pytest.mark.parametrize("name", WITH_PRODUCTS)
def test_saved_int8_products_give_the_same_bits(name):
    _, int8, inputs = made(name, arithmetic="int8")
    args = inputs(3)
    loaded = artifact.put_together(artifact.take_apart(int8)).eval()
    assert_same(loaded(*args), int8(*args), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "Embedding", "LSTM plain"])
def test_a_stored_layer_can_be_moved_to_another_dtype(name):
    layer, stored, inputs = made(name)
    args = [arg.double() if arg.is_floating_point() else arg for arg in inputs(3)]
    outputs = tensors(stored.double()(*args))[0]
    assert outputs.dtype == torch.float64
    assert relative_error(outputs, tensors(layer.double()(*args))[0]) < 0.02


def test_a_stored_layer_can_be_exported_and_compiled():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    result = toolkit_quantization.convert(model, Params(arithmetic="float")).eval()
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(torch.export.export(result, (inputs,)).module()(inputs), result(inputs))


# Masks


def test_what_is_encoded_is_what_a_masked_layer_sees():
    model = nn.ModuleDict({"lstm": nn.LSTM(10, 16), "conv": nn.Conv2d(2, 3, 3)})
    keep = {path: torch.rand(model.get_parameter(path).shape) < 0.3 for path in ("lstm.weight_hh_l0", "conv.weight")}
    masks.apply(model, keep)
    result: Any = toolkit_quantization.convert(masks.clone(model), Params())
    assert not any(parametrize.is_parametrized(module) for module in result.modules())
    for path, kept in keep.items():
        layer, _, name = path.partition(".")
        found = result[layer].dense_weights()[name]
        assert (found[~kept] == 0).all()
        assert (found[kept] != 0).float().mean() > 0.9


def test_zeros_of_pruning_are_kept_through_a_run(recipe_run, install):
    @toolkit.hookimpl
    def optimize(model):
        masks.apply(model, {"lstm.weight_ih_l0": torch.arange(8) % 2 == torch.zeros(64, 1)})
        return model

    install("halve", optimize=optimize)
    source = 'source = "toolkit.testing:toy_lstm"'
    text = f'[model]\n{source}\n[[stages]]\ntechnique = "halve"\n[[stages]]\ntechnique = "quantization"\n'
    outcome = recipe_run(text + 'params = { arithmetic = "int8" }')
    assert outcome.error == ""
    before, after = outcome.rows[1], outcome.rows[2]
    assert after["sparsity"] >= before["sparsity"] > 0
    assert (after["parameters"], after["macs"]) == (before["parameters"], before["macs"])
    assert not {"promises", "ended"} & after.values.keys()
    assert after["size_bytes"] < before["size_bytes"]
    [table] = [note.table for name, note in after.notes.items() if name == "quantization.arithmetic"]
    assert [(row["layer"], row["kind"], row["arithmetic"]) for row in table] == [
        ("lstm", "LSTM", "float"),
        ("leave", "Linear", "int8"),
    ]


def test_pruned_convolutions_keep_their_zeros_through_a_run(recipe_run):
    outcome = recipe_run(
        '[model]\nsource = "toolkit.testing:toy_cnn"\n[[stages]]\ntechnique = "pruning"\nparams = { sparsity = 0.7 }\n'
        '[[stages]]\ntechnique = "quantization"\n'
    )
    assert outcome.error == ""
    assert outcome.rows[2]["sparsity"] >= outcome.rows[1]["sparsity"] > 0.5
    assert (outcome.model[3].dense_weight() == 0).float().mean() > 0.5


# What stays in float


class Clamped(nn.Conv2d):
    """A forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).clamp(-1, 1)


class Renamed(nn.LSTM):
    """Nothing but a name."""


class Gained(nn.Conv1d):
    """A parameter more."""

    def __init__(self) -> None:
        super().__init__(2, 3, 1)
        self.gain = nn.Parameter(torch.ones(3))


def hooked() -> nn.Module:
    attention = nn.MultiheadAttention(4, 2)
    attention.out_proj.register_forward_hook(lambda module, inputs, output: output)
    return attention


@pytest.mark.parametrize(
    ("layer", "dtype", "reason"),
    [
        (Clamped(2, 3, 1), "int8", "Clamped has a forward of its own"),
        (Gained(), "int8", "its weights are bias, gain, weight"),
        (hooked(), "int8", "it has hooks, which would be lost"),
        (nn.Embedding(3, 4, max_norm=1.0), "int8", "max_norm changes its weights when it is called"),
        (nn.BatchNorm2d(3), "int8", "BatchNorm2d: not a kind of layer that is quantized"),
        (nn.Linear(2, 3, dtype=torch.complex64), "int8", "its weight is (3, 2) of torch.complex64"),
        (nn.MultiheadAttention(4, 2).out_proj, "int8", "the module around it reads its weight instead of calling it"),
        (nn.GRU(3, 4), "float16", None),
        (Renamed(3, 4), "int8", None),
        (nn.LazyConv2d(3, 1), "int8", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_why_a_layer_stays_in_float(layer, dtype, reason):
    assert layers.why_float(layer, dtype) == reason


def test_float16_holds_no_weights_beyond_its_range():
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = 1e5
    assert layers.why_float(layer, "float16") == "it has weights that float16 cannot hold"
    assert layers.why_float(layer, "bfloat16") is None


def test_a_subclass_keeps_its_methods():
    stored: Any = layers.successor(Renamed(3, 4))
    assert isinstance(stored.layer, Renamed)
    assert stored.replaces == "LSTM"
    assert stored(torch.randn(2, 3))[0].shape == (2, 4)


@pytest.mark.parametrize("path", ["weight_hh_l0", "bias_ih_l0"])
def test_weights_that_are_not_finite_are_refused_by_name(path):
    model = nn.Sequential(nn.LSTM(3, 4))
    model[0].get_parameter(path).data.view(-1)[1] = math.nan
    with pytest.raises(toolkit.TechniqueError, match=f"'0.{path}' is not finite"):
        toolkit_quantization.convert(model, Params())


def test_attention_that_stays_in_float_is_one_layer():
    model = Encoder(False, False)
    result = toolkit_quantization.convert(model, Params(exclude=["*.self_attn"]))
    attentions = {name for name, reason in reasons(result, exclude=["*.self_attn"]).items() if "excluded" in reason}
    assert attentions == {"encoder.layers.0.self_attn", "encoder.layers.1.self_attn"}
    assert isinstance(result.encoder.layers[0].self_attn, nn.MultiheadAttention)


# The choice of the arithmetic


def test_on_auto_what_is_stored_does_not_depend_on_what_is_faster(monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    results = []
    for slow in ("float", "int8"):
        monkeypatch.setattr(timing, "time_in_turn", lambda *args, slow=slow: times(slow))
        results.append(quantize(model, arithmetic="auto"))
    assert [type(result[1]) for result in results] == [Int8Linear, StoredWeight]
    int8, stored = results
    expected = quantize_per_channel(model[1].weight.detach())
    assert torch.equal(int8[1].weight, expected[0])
    assert torch.equal(stored[1].layer.weight.values, expected[0])
    assert torch.equal(stored[1].layer.weight.scale, int8[1].scale)


def times(slow: str) -> Timings[str]:
    seconds = {"before": 1.0, "float": 2.0, "int8": 2.0, slow: 3.0}
    return Timings({name: np.array([value]) for name, value in seconds.items()})


def test_the_report_says_what_was_chosen_and_how_fast_it_is(recipe_run, monkeypatch):
    monkeypatch.setattr(timing, "time_in_turn", lambda *args: times("float"))
    outcome = recipe_run('[[stages]]\ntechnique = "quantization"\nparams = { arithmetic = "auto" }')
    assert outcome.error == ""
    row = {"kind": "Linear", "dtype": "int8", "arithmetic": "int8", "time relative to float": "×2.00"}
    assert outcome.rows[1]["quantization.arithmetic"].table == [{"layer": "1", **row}, {"layer": "3", **row}]


@pytest.mark.parametrize(
    ("slow", "chosen"),
    [
        ({"1": "float", "3": "float"}, "int8"),
        ({"1": "int8", "3": "int8"}, "float"),
        ({"1": "float", "3": "int8"}, {"3": "float"}),
    ],
)
def test_what_was_chosen_by_timing_is_in_the_resolved_recipe_and_needs_none(recipe_run, monkeypatch, slow, chosen):
    waiting = list(slow.values())
    monkeypatch.setattr(timing, "time_in_turn", lambda *args: times(waiting.pop(0)))
    outcome = recipe_run('[[stages]]\ntechnique = "quantization"')
    [stage] = tomllib.loads((outcome.directory / "recipe.toml").read_text())["stages"]
    assert stage["params"]["arithmetic"] == chosen
    monkeypatch.setattr(timing, "time_in_turn", None)  # not to be called again
    again = toolkit.run(outcome.directory / "recipe.toml", output=outcome.directory.parent / "again", cache=False)
    kinds = [
        [row["arithmetic"] for row in found["quantization.arithmetic"].table]
        for found in (outcome.rows[1], again.rows[1])
    ]
    assert kinds[0] == kinds[1]


def test_arithmetic_by_name_says_which_names_there_are(recipe_run):
    outcome = recipe_run('[[stages]]\ntechnique = "quantization"\nparams = { arithmetic = { "fc*" = "float" } }')
    assert "no layer matches 'fc*'; known: 1, 3" in outcome.error


def test_both_are_really_measured_and_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    modules = {"1": model[1], "3": model[3]}
    inputs = DATA.example(8).inputs
    choices = toolkit_quantization.arithmetic.choose(
        model, dict.fromkeys(modules, "int8"), Params(), lambda: model(inputs)
    )
    assert choices.keys() == modules.keys()
    assert all(choice.ratio is not None and choice.ratio > 0 for choice in choices.values())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


# Recurrent layers with heavy-tailed inputs


@pytest.mark.usefixtures("torch_engine")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("sizes", [{}, {"num_layers": 2, "bidirectional": True}])
def test_heavy_tails_cost_at_most_a_fifth_of_what_they_cost_quantize_dynamic(kind, sizes):
    layer = kind(40, 128, batch_first=True, **sizes).eval()
    for weights in layer.all_weights:
        for weight in weights[:2]:
            weight.data.view(-1)[torch.randperm(weight.numel())[:5]] *= 30
    energies = 10 ** (torch.rand(16, 1, 1) * 4 + torch.rand(16, 50, 40) * 2 - 4)
    assert energies.min() < 1e-3
    assert energies.max() > 10
    stored = layers.successor(layer)
    theirs = torch_dynamic(nn.Sequential(layer), {kind})
    with torch.no_grad():
        expected = copy.deepcopy(layer).double()(energies.double())[0]
        ours = relative_error(stored(energies)[0].double(), expected)
        assert ours <= relative_error(theirs(energies)[0].double(), expected) / 5
        assert ours < 0.05
        # The quiet ones give the same with louder ones beside them.
        quiet, loud = energies[:4], torch.cat((energies[:4], 1000 * energies[4:]))
        assert torch.equal(stored(loud)[0][:4], stored(energies)[0][:4])
        torch.testing.assert_close(stored(loud)[0][:4], stored(quiet)[0], rtol=1e-4, atol=1e-6)
    sizes_bytes = [sum(map(len, artifact.pack(model).values())) for model in (stored, layer)]
    assert sizes_bytes[0] <= 0.3 * sizes_bytes[1]


def test_floats_that_are_kept_of_a_small_layer_follow_what_is_stored():
    layer = nn.Linear(8, 4)
    stored: Any = layers.successor(layer)
    inputs = torch.randn(3, 8, requires_grad=True)
    with torch.inference_mode():
        first = stored(inputs)
    stored(inputs).sum().backward()  # what is kept comes from no inference mode
    assert inputs.grad is not None
    assert torch.allclose(first, layer(inputs), atol=0.1)
    stored.layer.weight.values.zero_()
    assert torch.equal(stored(inputs), layer.bias.expand(3, 4))
    assert stored.double()(inputs.double()).dtype == torch.float64
    assert not {"_kept", "_floats_bytes"} & stored.__getstate__().keys()


@pytest.mark.parametrize(("largest", "decodings"), [(2**26, 1), (0, 3)], ids=["kept", "too large to be kept"])
def test_how_often_a_stored_layer_is_decoded(largest: int, decodings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = nn.GRUCell(64, 128), torch.randn(3, 64)
    expected = layers.successor(module, "int8", "float")(inputs)
    decode = Mock(wraps=stored_layers._decoded)
    monkeypatch.setattr(stored_layers, "_decoded", decode)
    monkeypatch.setattr("toolkit_quantization.stored.MAX_KEPT_BYTES", largest)
    stored = layers.successor(module, "int8", "float")
    for _ in range(3):
        assert torch.equal(stored(inputs), expected)
    assert decode.call_count == decodings


def test_floats_that_were_kept_follow_what_is_written_into_the_layer() -> None:
    stored = layers.successor(nn.Linear(600, 200), "int8", "float")
    inputs = torch.randn(3, 600)
    before = stored(inputs)
    with torch.no_grad():
        for buffer in stored.buffers():
            if buffer.is_floating_point():
                buffer.mul_(2)
    assert torch.allclose(stored(inputs), 2 * before, rtol=1e-4, atol=1e-5)
