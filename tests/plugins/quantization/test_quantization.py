"""Dynamic int8: what is rounded and how, what the layers give, and what the technique converts, leaves and refuses."""

import copy
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import cast

import pytest
import safetensors.torch
import toolkit_quantization
import torch
import torch.nn.functional as F
from toolkit_quantization import Findings, Params, relative_error
from toolkit_quantization.engines import ENGINES
from toolkit_quantization.int8 import Int8Linear, TorchInt8Linear, int8_matmul, quantize_per_channel
from toolkit_quantization.layers import KINDS as ALL_KINDS
from toolkit_quantization.layers import converted
from toolkit_quantization.selection import select, weights_by_layer
from toolkit_quantization.stored import StoredWeight
from torch import Tensor, nn
from torch.nn.utils import parametrize

import toolkit
from toolkit import masks
from toolkit import model_files as artifact
from toolkit.data.splits import Data
from toolkit.rounding import quantize_rows
from toolkit.testing import TOY_MODELS, TiedToy, toy_cnn, toy_data, toy_mlp

DATA = toy_data(samples=128).without_test()
KINDS = {"toolkit": Int8Linear, "torch": TorchInt8Linear}
KINDS_OF_ENGINE = {"toolkit": ALL_KINDS, "torch": (nn.Linear,)}
SIZES = [(1, 1), (1, 7), (5, 3), (16, 16), (63, 17), (100, 10), (784, 33), (1025, 31), (1200, 64)]


def quantize(model: nn.Module, data: Data = DATA, **params) -> nn.Module:
    settings = Params(**{"arithmetic": "int8", **params})  # by default it is measured which one is faster
    prepared = toolkit_quantization.prepare(params=settings, data=data)
    return toolkit_quantization.optimize(model=masks.clone(model), params=settings, data=data, prepared=prepared)


def measured(model: nn.Module, prepared: Findings | None = None, **params) -> dict:
    return toolkit_quantization.measure(model=model, params=Params(**params), prepared=prepared or Findings())


def reasons(model: nn.Module, **params) -> dict[str, str]:
    return {row["layer"]: row["reason"] for row in measured(model, **params)["float"].table}


def own_layer(inputs: int, outputs: int, bias: bool = True) -> Int8Linear:
    linear = nn.Linear(inputs, outputs, bias=bias)
    return Int8Linear(*quantize_per_channel(linear.weight.detach()), linear.bias.detach() if bias else None)


def formula(layer: Int8Linear, rows: Tensor) -> Tensor:
    """What the layer has to give, in float64 and without any of its code but the choice at exact halves."""
    scale = rows.double().abs().amax(dim=1, keepdim=True) / 127
    values = quantize_rows(rows)[0].double()
    assert (values - rows.double() / scale).abs().max() <= 0.5 + 1e-4
    outputs = (values * scale) @ (layer.weight.double() * layer.scale.double().unsqueeze(1)).t()
    return outputs if layer.bias is None else outputs + layer.bias.double()


def torch_dynamic(model: nn.Module, kinds: set[type[nn.Module]] | None = None) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        how = kinds or {nn.Linear: per_channel_dynamic_qconfig}
        return quantize_dynamic(model.eval(), how)


@pytest.fixture(params=[name for name in ("x86", "onednn") if name in torch.backends.quantized.supported_engines])
def torch_engine(request):
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = request.param
    yield request.param
    torch.backends.quantized.engine = before


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


# Rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.smoke
def test_rows_are_rounded_to_the_nearest_of_255_steps(dtype):
    rows = (torch.randn(50, 33) * torch.logspace(-4, 4, 50).unsqueeze(1)).to(dtype)
    values, scale = quantize_rows(rows)
    exact = rows.double()
    expected_scale = exact.abs().amax(dim=1, keepdim=True) / 127
    assert (values.dtype, values.shape, scale.dtype, scale.shape) == (torch.int8, (50, 33), torch.float32, (50, 1))
    torch.testing.assert_close(scale.double(), expected_scale, rtol=1e-6, atol=0)
    steps = exact / expected_scale
    assert (values.double() - steps).abs().max() <= 0.5 + 1e-4
    assert (values.abs().amax(dim=1) == 127).all()


def test_halves_are_rounded_to_even():
    values, _ = quantize_rows(torch.tensor([[127.0, 0.5, 1.5, -0.5, -2.5, 2.5]]))
    assert values.tolist() == [[127, 0, 2, 0, -2, 2]]


@pytest.mark.parametrize("size", [0.0, 1e-45, 3e-44, 1e-40, 1e-38, 3e38])
def test_no_row_is_too_small_or_large_for_its_scale(size):
    values, scale = quantize_rows(torch.tensor([[size, -size, size / 2, 0.0]]))
    assert 0 < scale.item() < math.inf
    assert values[0, 0] == -values[0, 1]
    assert 0 <= values[0, 0] <= 127
    torch.testing.assert_close(values[0, 0] * scale[0, 0], torch.tensor(size), rtol=0.01, atol=1e-38)


def test_weights_are_rounded_per_output_channel():
    weight = torch.randn(20, 30) * torch.logspace(-3, 3, 20).unsqueeze(1)
    weight[3] = 0
    values, scale = quantize_per_channel(weight)
    assert (values.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, (20,))
    assert (values * scale.unsqueeze(1) - weight).abs().le(scale.unsqueeze(1) * 0.5001).all()
    assert values[3].eq(0).all()
    assert scale[3] > 0


# The product of integers


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("exact", [True, False])
def test_the_product_of_integers_is_exact(inputs, outputs, exact, monkeypatch):
    if not exact:  # what a processor without VNNI, or another device, computes
        monkeypatch.setattr("toolkit_quantization.int8.INT_MM_IS_EXACT", False)
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    weight[0] = 127  # nearly the largest sums there can be, and odd, which float32 cannot hold beyond 2**24
    weight[0, 0] = 126
    for count in (0, 1, 5, 17):
        rows = torch.randint(-127, 128, (count, inputs), dtype=torch.int8)
        rows[:1] = -127
        product = int8_matmul(rows, weight)
        assert product.dtype == torch.int32
        assert torch.equal(product, (rows.double() @ weight.double().t()).int())


# The layer


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_follow_the_formula_in_float64(inputs, outputs, bias):
    layer = own_layer(inputs, outputs, bias)
    rows = torch.randn(9, inputs)
    assert relative_error(layer(rows).double(), formula(layer, rows)) < 1e-6


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.usefixtures("threads")
def test_a_row_gives_the_same_bits_alone_and_in_any_batch(inputs, outputs):
    layer = own_layer(inputs, outputs)
    rows = torch.randn(301, inputs) * torch.logspace(-6, 6, 301).unsqueeze(1)
    rows[7] = 0
    whole = layer(rows)
    for count in (1, 2, 13, 64, 300):
        for start in (0, 1, 7, 301 - count):
            assert torch.equal(layer(rows[start : start + count]), whole[start : start + count])
    order = torch.randperm(301)
    assert torch.equal(layer(rows[order]), whole[order])
    assert torch.equal(layer(rows.reshape(7, 43, inputs)), whole.reshape(7, 43, outputs))
    assert torch.equal(layer(rows[5]), whole[5])
    assert torch.equal(layer(rows.t().contiguous().t()), whole)


@pytest.mark.parametrize("strides", [(1, 1), (0, 1), (1, 4), (7, 3), (24, 1), (3, 0)])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("outputs", [1, 12])
def test_inputs_may_have_any_strides(strides, count, outputs):
    """One row with strides of (1, 1), such as a transposed column, is where `torch._int_mm` goes wrong."""
    layer, rows = own_layer(24, outputs), torch.randn(200).as_strided((count, 24), strides)
    assert torch.equal(layer(rows), layer(rows.clone(memory_format=torch.contiguous_format)))
    values, _ = quantize_rows(rows)
    assert torch.equal(int8_matmul(values, layer.weight), (values.double() @ layer.weight.double().t()).int())
    assert relative_error(layer(rows).double(), formula(layer, rows)) < 1e-6


def test_one_value_that_is_not_finite_spoils_its_row_and_no_other():
    layer = own_layer(37, 11)
    rows = torch.randn(6, 37)
    clean = layer(rows)
    spoilt = rows.clone()
    spoilt[1, 5], spoilt[2, 0], spoilt[3, 36] = math.nan, math.inf, -math.inf
    spoilt[4, :2] = torch.tensor([math.inf, math.nan])
    outputs = layer(spoilt)
    assert outputs[1:5].isnan().all()
    assert torch.equal(outputs[[0, 5]], clean[[0, 5]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_outputs_have_the_dtype_of_the_inputs(dtype):
    layer, rows = own_layer(24, 12), torch.randn(4, 24)
    assert layer(rows.to(dtype)).dtype == dtype
    assert relative_error(layer(rows.to(dtype)).double(), layer(rows).double()) < 0.02


def test_unusual_inputs():
    layer = own_layer(24, 12)
    assert layer(torch.empty(0, 24)).shape == (0, 12)
    assert layer(torch.empty(3, 0, 24)).shape == (3, 0, 12)
    assert torch.equal(layer(torch.zeros(2, 24)), layer.bias.expand(2, 12))
    with pytest.raises(TypeError, match=r"must be float, not torch\.int64"):
        layer(torch.ones(2, 24, dtype=torch.int64))
    with pytest.raises(RuntimeError):
        layer(torch.randn(4, 12))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 24)).dtype == torch.float32
    inputs = torch.randn(2, 24, requires_grad=True)
    before = inputs.detach().clone()
    layer(inputs)
    assert torch.equal(inputs, before)


def test_the_layer_holds_plain_tensors_and_stands_for_a_linear():
    layer = own_layer(24, 12)
    assert {name: (buffer.dtype, buffer.shape) for name, buffer in layer.named_buffers()} == {
        "weight": (torch.int8, (12, 24)),
        "scale": (torch.float32, (12,)),
        "bias": (torch.float32, (12,)),
    }
    assert layer.replaces == "Linear"
    torch.testing.assert_close(layer.dense_weight(), layer.weight.float() * layer.scale[:, None])
    assert (layer.in_features, layer.out_features) == (24, 12)
    assert repr(layer) == "Int8Linear(24, 12, bias=True)"


@pytest.mark.parametrize("engine", KINDS)
def test_a_skeleton_on_meta_and_safetensors_give_the_layer_back(engine, tmp_path):
    model = quantize(toy_mlp(), engine=engine)
    inputs = DATA.example(32).inputs
    expected = model(inputs)
    tensors = safetensors.torch.load(safetensors.torch.save(model.state_dict()))
    skeleton = io.BytesIO()
    torch.save(masks.clone(model).to("meta"), skeleton)
    skeleton.seek(0)
    again = torch.load(skeleton, weights_only=False)
    again.load_state_dict(tensors, assign=True)
    assert torch.equal(again(inputs), expected)
    for name, content in artifact.pack(model).items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(toolkit.load(tmp_path)(inputs), expected)


@pytest.mark.parametrize("engine", KINDS)
def test_copies_are_independent(engine):
    model = quantize(toy_mlp(), engine=engine)
    inputs = DATA.example(8).inputs
    expected = model(inputs)
    for twin in (masks.clone(model), copy.deepcopy(model)):
        assert torch.equal(twin(inputs), expected)
        with torch.no_grad():
            twin[1].weight.zero_()
        assert not torch.equal(twin(inputs), expected)
        assert torch.equal(model(inputs), expected)


def test_exported_with_any_batch_size_it_computes_the_same_bits():
    model = quantize(toy_mlp()).eval()
    inputs = DATA.example(64).inputs
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (inputs,), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    exported = torch.export.load(file).module()
    for count in (1, 2, 37, 64):
        assert torch.equal(exported(inputs[:count]), model(inputs[:count]))


# PyTorch's own, to compare with


@pytest.mark.parametrize("inputs", [1, 31, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_engine_torch_computes_what_quantize_dynamic_computes(torch_engine, inputs, bias):
    model = nn.Sequential(nn.Linear(inputs, 48, bias=bias), nn.ReLU(), nn.Linear(48, 10, bias=bias)).eval()
    data = replace(DATA, train=(torch.randn(64, inputs), torch.zeros(64).long()), validation=None)
    theirs, ours = torch_dynamic(model), quantize(model, data, engine="torch")
    again = artifact.pack(ours)
    with torch.no_grad():
        for shape in [(1, inputs), (7, inputs), (64, inputs), (2, 3, inputs), (0, inputs)]:
            rows = torch.randn(shape) * 3
            assert torch.equal(ours(rows), theirs(rows))
    assert again  # it was packed and used, and can be saved still


def test_engine_torch_notices_new_tensors():
    layer = quantize(toy_mlp(), engine="torch")[1]
    rows = torch.randn(5, 64)
    plain = layer(rows)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    doubled = {**state, "scale": state["scale"] * 2, "bias": state["bias"] * 2}
    layer.load_state_dict(doubled, assign=True)
    assert torch.equal(layer(rows), plain * 2)
    layer.load_state_dict(state)
    assert torch.equal(layer(rows), plain)
    layer.bias = None
    torch.testing.assert_close(layer(rows), plain - state["bias"])
    with torch.inference_mode():
        layer.load_state_dict({name: tensor.clone() for name, tensor in state.items() if name != "bias"}, assign=True)
        torch.testing.assert_close(layer(rows), plain - state["bias"])


def test_engine_torch_keeps_its_deprecations_to_itself():
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quantize(toy_mlp(), engine="torch")
    finally:
        torch.set_warn_always(always)


def test_engine_torch_is_refused_on_other_devices():
    data = replace(DATA, device=torch.device("cuda"))
    with pytest.raises(toolkit.TechniqueError, match="runs on CPU only, but this run is on cuda"):
        toolkit_quantization.prepare(params=Params(engine="torch"), data=data)


@pytest.mark.parametrize("sizes", [(784, 1200, 1200, 10), (64, 32, 4), (100, 33)])
def test_our_error_is_at_most_0_7_of_that_of_quantize_dynamic(torch_engine, sizes):
    layers = [[nn.Linear(*pair), nn.ReLU()] for pair in pairwise(sizes)]
    model = nn.Sequential(*[part for layer in layers for part in layer][:-1]).eval()
    rows = torch.randn(64, sizes[0])
    params = Params()
    with torch.no_grad():
        expected = model.double()(rows.double())
        model.float()
        theirs = relative_error(torch_dynamic(model)(rows).double(), expected)
        ours = relative_error(toolkit_quantization.convert(model, params)(rows).double(), expected)
    assert ours <= 0.7 * theirs
    assert ours < 0.02


# The technique


@pytest.mark.parametrize("engine", KINDS)
@pytest.mark.parametrize("name", TOY_MODELS)
def test_every_layer_that_the_engine_has_becomes_int8_and_the_rest_is_listed(engine, name):
    model = TOY_MODELS[name]()
    params = Params(engine=engine, arithmetic="int8")
    original = {key: value.clone() for key, value in model.state_dict().items()}
    prepared = toolkit_quantization.prepare(params=params, data=DATA)
    assert all(torch.equal(value, original[key]) for key, value in model.state_dict().items())
    expected = {name: model.get_submodule(name) for name in select(model, params, ENGINES[engine])}
    result = toolkit_quantization.optimize(model=masks.clone(model), params=params, data=DATA, prepared=prepared)
    values = measured(result, prepared, engine=engine)
    assert values["layers"] == len(expected)
    assert all(type(module) in KINDS_OF_ENGINE[engine] for module in expected.values())
    assert not any(type(module) in KINDS_OF_ENGINE[engine] for module in outside_of_stored(result))
    batch = DATA.example(100)
    outputs, floats = (DATA.task.logits(DATA.task.forward(network.eval(), batch)) for network in (result, model))
    assert 0 < values["output_error"] < 0.05
    assert 0 < relative_error(outputs, floats) < 0.05
    known = weights_by_layer(model)
    assert {row["layer"] for row in values["float"].table} == known.keys() - expected.keys()


def outside_of_stored(model: nn.Module) -> list[nn.Module]:
    inside = {part for _, layer in converted(model) for part in layer.modules()}
    return [module for module in model.modules() if module not in inside]


def test_what_stays_in_float_is_listed_with_its_size_and_reason():
    model = quantize(toy_cnn(), exclude=["3"])
    assert measured(model, exclude=["3"])["float"].table == [
        {"layer": "1", "weights": 16, "reason": "BatchNorm2d: not a kind of layer that is quantized"},
        {"layer": "3", "weights": 584, "reason": "excluded by '3'"},
    ]


def test_patterns_choose_layers():
    model = quantize(TiedToy(), exclude=["leave", "s*"])
    assert [name for name, module in model.named_modules() if isinstance(module, Int8Linear)] == ["enter", "first"]
    assert reasons(model, exclude=["leave", "s*"]) == {"second": "excluded by 's*'", "leave": "excluded by 'leave'"}
    model = quantize(TiedToy(), layers=["[fs]*"])
    assert isinstance(model.first, Int8Linear)
    assert reasons(model, layers=["[fs]*"]) == dict.fromkeys(("enter", "leave"), "not selected by layers")


@pytest.mark.parametrize("field", ["layers", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_known_names(field):
    with pytest.raises(toolkit.TechniqueError, match="no layer matches 'fc'; known: enter, first, second, leave"):
        quantize(TiedToy(), **{field: ["enter", "fc"]})


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        (toy_cnn(), {"exclude": ["[036]"]}, r"nothing to quantize: BatchNorm2d: not a kind .*; excluded by '\[036\]'"),
        (toy_cnn(), {"layers": ["1"]}, "nothing to quantize: BatchNorm2d: not a kind .*; not selected by layers"),
        (toy_cnn(), {"layers": ["0"], "engine": "torch"}, "nothing to quantize: Conv2d: engine 'torch' has int8"),
        (nn.Flatten(), {}, "nothing to quantize: no layer has float weights"),
        (nn.Sequential(own_layer(64, 4)), {}, "nothing to quantize: no layer has float weights"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), {}, "'1.weight' is not initialized yet; run the lazy model"),
    ],
)
def test_what_cannot_be_quantized_is_refused_before_anything_is_changed(model, params, message):
    with pytest.raises(toolkit.TechniqueError, match=message):
        toolkit_quantization.convert(model, Params(**params))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["1.weight", "3.bias"])
def test_a_weight_that_is_not_finite_is_refused_by_name(value, name):
    model = toy_mlp()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = value
    with pytest.raises(toolkit.TechniqueError, match=f"'{name}' is not finite"):
        quantize(model)


def test_a_lazy_layer_that_was_run_is_a_linear_layer():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    model(DATA.example(2).inputs)
    assert isinstance(quantize(model)[1], Int8Linear)


@pytest.mark.parametrize("engine", KINDS)
def test_zeros_of_masks_stay_zeros_and_other_layers_keep_their_masks(engine):
    model = toy_cnn()
    keep = {path: torch.rand(model.get_parameter(path).shape) < 0.3 for path in ("3.weight", "6.weight")}
    keep["6.weight"][2] = False
    masks.apply(model, keep)
    seen = model[6].weight.detach()
    result = quantize(model, engine=engine, exclude=["3"])
    assert not parametrize.is_parametrized(result[6])
    assert (result[6].weight[~keep["6.weight"]] == 0).all()
    assert (result[6].dense_weight()[~keep["6.weight"]] == 0).all()
    assert result[6].scale.gt(0).all()
    assert relative_error(result[6].dense_weight(), seen) < 0.01
    assert torch.equal(masks.current(result)["3.weight"], keep["3.weight"])
    assert torch.equal(masks.current(model)["6.weight"], keep["6.weight"])  # the input model is as it was


@pytest.mark.parametrize("engine", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_tied_layers_share_their_int8_tensors(engine, masked):
    model = TiedToy()
    model.second.bias = model.first.bias
    if masked:
        masks.apply(model, {"first.weight": torch.rand(16, 16) < 0.5})
    result = quantize(model, engine=engine)
    assert all(getattr(result.first, name) is getattr(result.second, name) for name in ("weight", "scale", "bias"))
    assert result.first.weight is not result.enter.weight


def test_of_tied_layers_only_one_of_which_is_masked_each_keeps_its_own():
    model = TiedToy()
    parametrize.register_parametrization(model.first, "weight", masks.Mask((torch.rand(16, 16) < 0.5).float()))
    result = quantize(model)
    assert (result.first.weight == 0).float().mean() > 0.4
    assert (result.second.weight == 0).float().mean() < 0.1


def test_a_module_under_two_names_is_replaced_by_one():
    shared = nn.Linear(64, 64)
    model = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.Sequential(shared), nn.Linear(64, 4))
    result = quantize(model)
    assert isinstance(result[1], Int8Linear)
    assert result[1] is result[3] is result[4][0]
    assert measured(result)["layers"] == 2


def test_a_model_that_is_a_linear_layer():
    data = replace(DATA, train=(torch.randn(9, 5), torch.zeros(9).long()), validation=None)
    assert isinstance(quantize(nn.Linear(5, 4), data), Int8Linear)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_other_dtypes(dtype):
    data = replace(DATA, train=(torch.randn(9, 5, dtype=dtype), torch.zeros(9).long()), validation=None)
    result = quantize(nn.Sequential(nn.Linear(5, 4)).to(dtype), data)
    assert (result[0].scale.dtype, result[0].bias.dtype) == (torch.float32, torch.float32)


class Clamped(nn.Linear):
    """A forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).clamp(-1, 1)


class Renamed(nn.Linear):
    """Nothing but a name."""


def test_layers_that_are_more_than_a_linear_layer_stay_in_float():
    hooked, extended, patched = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
    hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    extended.register_parameter("gain", nn.Parameter(torch.ones(64)))
    patched.forward = lambda inputs: inputs
    model = nn.Sequential(nn.Flatten(), Clamped(64, 64), hooked, extended, patched, Renamed(64, 4))
    result = quantize(model)
    assert isinstance(result[5], Int8Linear)
    assert reasons(result) == {
        "1": "Clamped has a forward of its own",
        "2": "it has hooks, which would be lost",
        "3": "its weights are bias, gain, weight",
        "4": "Linear has a forward of its own",
    }


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Linear(0, 3), "(3, 0) of torch.float32"),
        (nn.Linear(2, 3, dtype=torch.complex64), "(3, 2) of torch.complex64"),
    ],
)
def test_weights_that_int8_cannot_hold_stay_in_float(layer, reason):
    model = nn.Sequential(layer, nn.Linear(133_144, 1))
    result = toolkit_quantization.convert(model, Params())
    assert reasons(result) == {"0": f"its weight is {reason}"}
    assert isinstance(result[1], Int8Linear)


def test_a_layer_of_more_inputs_than_int32_can_add_up_products_of_computes_in_float():
    model = nn.Sequential(nn.Linear(133_145, 1), nn.Linear(1, 1))  # 133,145 * 127 * 127 is the first beyond int32
    with pytest.raises(toolkit.TechniqueError, match="engine 'torch' has int8 for at most 133144 inputs"):
        toolkit_quantization.convert(model, Params(engine="torch", exclude=["1"]))
    rows = torch.randn(2, 133_145)
    result = toolkit_quantization.convert(model, Params())
    assert isinstance(result[0], StoredWeight)
    assert torch.equal(result[0](rows), F.linear(rows, result[0].dense_weight(), result[0].bias))


# Transformers, whose fused path reads weights instead of calling layers


class Encoder(nn.Module):
    """Eight tokens of eight numbers, the last three of them padding, through a transformer."""

    padding: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers) if layers else layer
        self.classify = nn.Linear(8, 4)
        self.register_buffer("padding", torch.arange(8) >= 5)

    def forward(self, inputs: Tensor) -> Tensor:
        padding = self.padding.expand(len(inputs), 8)
        return self.classify(self.encoder(inputs.squeeze(1), src_key_padding_mask=padding)[:, 0])


@pytest.mark.parametrize("engine", KINDS)
@pytest.mark.parametrize("layers", [0, 2])
def test_transformer_encoders_run_in_eval_mode_with_int8_layers(engine, layers):
    model = Encoder(layers).eval()
    inputs = DATA.example(16).inputs
    with torch.no_grad():
        expected = model(inputs)
        result = quantize(model, engine=engine)
        assert relative_error(result(inputs), expected) < 0.05
    attentions = max(layers, 1)
    assert measured(result)["layers"] == attentions * (3 if engine == "toolkit" else 2) + 1
    floats = {reason for name, reason in reasons(result, engine=engine).items() if name.endswith("self_attn")}
    limit = "MultiheadAttention: engine 'torch' has int8 for Linear layers only"
    assert floats == (set() if engine == "toolkit" else {limit})


def test_a_transformer_that_stays_in_float_keeps_its_fused_path():
    result = quantize(Encoder(2), exclude=["encoder.*"])
    assert result.encoder.use_nested_tensor
    assert result.encoder.layers[0].activation_relu_or_gelu


# The check of the result


class ReadsItsWeight(nn.Module):
    """Uses the weight of a layer that it never calls."""

    def __init__(self, used: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)
        self.used = used

    def forward(self, inputs: Tensor) -> Tensor:
        used: Callable[[Tensor, Tensor], Tensor] = self.used
        return used(inputs.flatten(1), self.layer.weight)


@pytest.mark.parametrize("used", [F.linear, lambda inputs, weight: inputs @ weight.float().t()])
def test_a_layer_that_is_read_and_never_called_can_be_read_as_before(used):
    model = ReadsItsWeight(used)
    result = quantize(model)
    inputs = DATA.example(9).inputs
    assert isinstance(result.layer, StoredWeight)
    assert 0 < relative_error(result(inputs), model(inputs)) < 0.02


class ReadsAWeightByNumber(nn.Module):
    """Uses a weight in a way that cannot be seen in the code of its forward pass."""

    def __init__(self, used: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 4)])
        self.used = used

    def forward(self, inputs: Tensor) -> Tensor:
        used: Callable[[Tensor, Tensor], Tensor] = self.used
        return used(inputs.flatten(1), cast(nn.Linear, self.layers[0]).weight)


def test_a_model_whose_outputs_become_others_is_refused():
    model = ReadsAWeightByNumber(lambda inputs, weight: inputs @ weight.float().t())
    with pytest.raises(toolkit.TechniqueError, match=r"int8 changes the outputs by .* of their size, more than 0\.5"):
        quantize(model, engine="torch")


def test_a_model_that_no_longer_runs_is_refused():
    with pytest.raises(toolkit.TechniqueError, match="the model fails with int8 layers, exclude those at fault: "):
        quantize(ReadsAWeightByNumber(F.linear), engine="torch")


def test_a_model_without_finite_outputs_is_refused():
    model = nn.Sequential(toy_mlp(), nn.Threshold(math.inf, math.nan))
    with pytest.raises(toolkit.TechniqueError, match="by nan of their size"):
        quantize(model)


def test_relative_error():
    assert relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])) == pytest.approx(4 / 3)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    masked = torch.tensor([1.0, -math.inf])
    assert relative_error(masked, masked) == 0
    assert math.isnan(relative_error(torch.tensor([math.nan]), torch.tensor([1.0])))


def test_nothing_can_be_trained_afterwards():
    assert not Params().trainable_after
    assert not list(quantize(toy_mlp()).parameters())
