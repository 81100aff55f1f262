"""Engines by name and by measuring, a model that compiles itself, and what is written down of choices by timing."""

import copy
import tomllib
import warnings
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import toolkit_quantization
import torch
from in_a_child import in_a_child
from toolkit_quantization import Params, compile_choice, engine_choice, engines, relative_error, self_compiling
from toolkit_quantization.int8 import Int8Linear, TorchInt8Linear
from toolkit_quantization.model_timing import time_models
from toolkit_quantization.self_compiling import Compiled
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import toolkit
from toolkit import TechniqueError, hookimpl, masks
from toolkit import model_files as artifact
from toolkit.testing import TOY_MODELS, toy_cnn, toy_data, toy_mlp

DATA = toy_data(samples=256).without_test()


def quantize(model: nn.Module, **params) -> tuple[nn.Module, dict, Params]:
    """The result, what is reported of it, and the params as they are resolved."""
    settings = Params(**{"arithmetic": "int8", **params})  # by default it is measured which one is faster
    prepared = toolkit_quantization.prepare(params=settings, data=DATA)
    result = toolkit_quantization.optimize(model=masks.clone(model), params=settings, data=DATA, prepared=prepared)
    values = toolkit_quantization.measure(model=result, params=settings, prepared=prepared)
    return result, values, toolkit_quantization.resolve(params=settings, prepared=prepared)


def without(monkeypatch, package: str) -> None:
    for module in (engines, toolkit_quantization.params):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else find_spec(name))


# torchao


@pytest.fixture
def torchao():
    return pytest.importorskip("torchao.quantization")


@pytest.mark.parametrize("bias", [True, False])
def test_engine_torchao_computes_what_torchao_computes(torchao, bias):
    model = nn.Sequential(nn.Linear(64, 48, bias=bias), nn.ReLU(), nn.Linear(48, 10, bias=bias)).eval()
    ours = toolkit_quantization.convert(model, Params(engine="torchao"))
    theirs = copy.deepcopy(model)
    torchao.quantize_(theirs, torchao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    with torch.no_grad():
        for shape in [(1, 64), (7, 64), (64, 64), (2, 3, 64)]:
            rows = torch.randn(shape) * 3
            assert torch.equal(ours(rows), theirs(rows))
    assert all(type(buffer) is torch.Tensor for buffer in ours.buffers())


def test_what_torchao_computes_is_saved_and_opened(torchao, tmp_path):
    model, values, _ = quantize(toy_mlp(), engine="torchao", max_drop=5.0)
    inputs = DATA.example(32).inputs
    expected = model(inputs)  # it was used, and can be saved still
    assert values["layers"] == 2
    for name, content in artifact.pack(model).items():
        (tmp_path / name).write_bytes(content)
    again = toolkit.load(tmp_path)
    assert torch.equal(again(inputs), expected)
    for twin in (masks.clone(model), again):
        with torch.no_grad():
            twin[1].weight.zero_()
        assert not torch.equal(twin(inputs), expected)
    model.load_state_dict({name: tensor * 2 for name, tensor in model.state_dict().items()}, assign=True)
    assert not torch.equal(model(inputs), expected)


@pytest.mark.parametrize("name", TOY_MODELS)
def test_engine_torchao_quantizes_linear_layers(torchao, name):
    model = TOY_MODELS[name]()
    _, values, _ = quantize(model, engine="torchao", max_drop=20.0)
    assert values["layers"] == sum(type(module) is nn.Linear for module in model.modules())


def test_torchao_is_asked_for_before_anything_runs(monkeypatch):
    without(monkeypatch, "torchao")
    with pytest.raises(ValueError, match=r"'torchao' is not installed; run pip install 'torch-optimization-toolkit\[t"):
        Params(engine="torchao")


def test_torchao_changes_no_global_setting(torchao):
    before = torch.get_float32_matmul_precision()
    quantize(toy_mlp(), engine="torchao", max_drop=5.0)
    assert torch.get_float32_matmul_precision() == before


def test_engines_say_which_kinds_of_layers_they_cannot(monkeypatch):
    monkeypatch.setattr(engines.layers, "why_float", lambda module, dtype: None)  # as if everything could be had
    convolution = toy_cnn()[0]
    reason = "Conv2d: engine 'torch' has int8 for Linear layers only"
    assert engines.ENGINES["torch"].why_float(convolution, "int8") == reason
    assert engines.ENGINES["torch"].why_float(convolution, "float16") is None
    assert engines.ENGINES["toolkit"].why_float(convolution, "int8") is None


def test_other_dtypes_are_the_same_by_every_engine():
    one, other = (quantize(toy_mlp(), engine=engine, dtype="bfloat16")[0] for engine in ("toolkit", "torch"))
    assert [type(module) for module in one.modules()] == [type(module) for module in other.modules()]


# The fastest


@pytest.fixture
def timed(monkeypatch):
    """Lets a test say how long each engine takes, relative to float, at batch sizes 1 and 64."""

    def say(**ratios: tuple[float, float]) -> list:
        asked = []

        def times(models, data, batch_sizes):
            asked.append((list(models), list(batch_sizes)))
            return {
                size: {name: 2.0 if name == "float" else 2.0 * ratios[name][position] for name in models}
                for position, size in enumerate(batch_sizes)
            }

        monkeypatch.setattr(engine_choice, "time_models", times)
        return asked

    return say


def test_auto_takes_the_engine_that_is_the_fastest_over_all_batch_sizes(timed, monkeypatch):
    without(monkeypatch, "torchao")
    asked = timed(toolkit=(0.9, 0.4), torch=(0.5, 0.6))
    model, values, resolved = quantize(toy_mlp(), engine="auto", max_drop=5.0)
    assert asked == [(["float", "toolkit", "torch"], [1, 64])]
    assert isinstance(model[1], TorchInt8Linear)
    assert resolved == Params(engine="torch", max_drop=5.0, arithmetic="int8")
    note = values["engine"]
    assert note.text == (
        "'torch' is the fastest within max_drop, over all batch sizes, timed in turn with the float model; "
        "not torchao: 'torchao' is not installed; run pip install 'torch-optimization-toolkit[torchao]'"
    )
    assert [(row["engine"], row["time of float's @1"], row["time of float's @64"]) for row in note.table] == [
        ("toolkit", 0.9, 0.4),
        ("torch", 0.5, 0.6),
    ]
    timed(toolkit=(0.9, 0.3), torch=(0.5, 0.6))
    model, _, resolved = quantize(toy_mlp(), engine="auto", max_drop=5.0)
    assert type(model[1]) is Int8Linear
    assert resolved.engine == "toolkit"


def test_an_engine_beyond_the_bounds_is_not_taken_however_fast(timed, monkeypatch):
    without(monkeypatch, "torchao")
    timed(toolkit=(0.9, 0.9), torch=(0.1, 0.1))
    monkeypatch.setattr(TorchInt8Linear, "forward", lambda layer, rows: rows.new_zeros(len(rows), layer.out_features))
    model, values, _ = quantize(toy_mlp(), engine="auto", max_drop=5.0)
    assert type(model[1]) is Int8Linear
    assert [row["engine"] for row in values["engine"].table] == ["toolkit"]
    assert "not torch: int8 changes the outputs by " in values["engine"].text


def test_auto_refuses_where_no_engine_keeps_within_the_bounds(timed, monkeypatch):
    without(monkeypatch, "torchao")
    timed()
    with pytest.raises(
        TechniqueError, match=r"^toolkit: int8 changes the outputs .*; torch: .*; torchao: 'torchao' is"
    ):
        quantize(toy_mlp(), engine="auto", max_error=1e-9, max_drop=100.0)


def test_the_batch_sizes_may_be_given(timed, monkeypatch):
    without(monkeypatch, "torchao")
    asked = timed(toolkit=(0.9,), torch=(1.0,))
    quantize(toy_mlp(), engine="auto", max_drop=5.0, batch_sizes=[7])
    assert asked[0][1] == [7]


def test_engine_torch_is_no_candidate_elsewhere():
    reason = engines.ENGINES["torch"].why_unavailable(torch.device("cuda"))
    assert reason == "it runs on CPU only, but this run is on cuda"


class Slow(nn.Module):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for _ in range(self.calls):
            inputs = inputs.cos()
        return inputs


def test_models_are_timed_in_turn(monkeypatch):
    monkeypatch.setattr("toolkit_quantization.model_timing.BUDGET_S", 0.05)
    found = time_models({"slow": Slow(400), "quick": Slow(1)}, DATA, [1, 64])
    assert list(found) == [1, 64]
    assert all(times["slow"] > 10 * times["quick"] > 0 for times in found.values())


AUTO = """
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 1, lr = 1e-2 }

[data]
source = "toolkit.testing:toy_data"

[measure]
budget = 0.1

[[stages]]
technique = "quantization"
params = { engine = "auto", max_drop = 5.0, batch_sizes = [64] }
"""


@pytest.mark.slow
@pytest.mark.cache
def test_the_resolved_recipe_names_the_engine_and_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit_quantization.model_timing.BUDGET_S", 0.05)
    recipe = tmp_path / "auto.toml"
    recipe.write_text(AUTO)
    first = toolkit.run(recipe, output=tmp_path / "first")
    resolved = (tmp_path / "first" / "recipe.toml").read_text()
    params = tomllib.loads(resolved)["stages"][0]["params"]
    assert params["engine"] in engines.ENGINES
    assert (params["max_drop"], params["batch_sizes"]) == (5.0, [64])
    from_cache = toolkit.run(recipe, output=tmp_path / "second")
    assert from_cache.final["reused"]
    assert (tmp_path / "second" / "recipe.toml").read_text() == resolved
    again = toolkit.run(tmp_path / "first" / "recipe.toml", output=tmp_path / "again", cache=False)
    assert again.final["quantization.output_error"] == first.final["quantization.output_error"]
    assert "quantization.engine" not in again.final.values


# What is resolved, by any technique


class Speeds(toolkit.Params):
    speed: str = "auto"


def chooser(**hooks):
    @hookimpl
    def resolve(params, prepared):
        return params.model_copy(update={"speed": prepared})

    @hookimpl
    def prepare():
        return "fast"

    return {"Params": Speeds, "prepare": prepare, "resolve": resolve, **hooks}


def test_every_technique_of_a_stage_is_resolved(install, recipe_run):
    install("chooser", **chooser())
    outcome = recipe_run(
        '[[stages]]\ntechnique = "pruning"\nwith = [{ technique = "chooser" }]\n[[stages]]\ntechnique = "chooser"'
    )
    stages = tomllib.loads((outcome.directory / "recipe.toml").read_text())["stages"]
    assert stages[0]["params"]["sparsity"] == 0.5
    assert stages[0]["with"] == [{"technique": "chooser", "params": {"speed": "fast"}}]
    assert stages[1]["params"] == {"speed": "fast"}


def test_what_is_resolved_must_be_params(install, recipe_run):
    install("chooser", **chooser(resolve=hookimpl(lambda params: {"speed": "fast"})))
    outcome = recipe_run('[[stages]]\ntechnique = "chooser"')
    assert "must return its Params from resolve, found dict; return params.model_copy" in outcome.error


# Compiling


@pytest.fixture
def compiling(monkeypatch):
    """Compiles by wrapping, and counts."""
    made: list[SimpleNamespace] = []

    def fake(model, **options):
        made.append(SimpleNamespace(model=model, calls=0))

        def call(*args, **kwargs):
            made[-1].calls += 1
            return model(*args, **kwargs)

        return call

    monkeypatch.setattr(self_compiling.torch, "compile", fake)
    return made


@pytest.fixture
def taking(monkeypatch):
    """Lets a test say how long the compiled model takes, relative to as it is, by batch size."""

    def say(*ratios: float) -> list:
        asked = []

        def times(models, data, batch_sizes):
            asked.append((list(models), list(batch_sizes)))
            return {
                size: {"as it is": 3.0, "compiled": 3.0 * ratio}
                for size, ratio in zip(batch_sizes, ratios, strict=True)
            }

        monkeypatch.setattr(compile_choice, "time_models", times)
        return asked

    return say


def test_on_request_the_result_compiles_itself_when_called(compiling, taking, tmp_path):
    taking(0.5, 0.5)
    model, values, _ = quantize(toy_mlp(), compile=True, max_drop=5.0)
    assert values["layers"] == 2
    assert len(compiling) == 1  # it was tried
    inputs = DATA.example(16).inputs
    with torch.no_grad():
        expected = model(inputs)
        assert relative_error(expected, model.model(inputs)) < 1e-6  # another kernel's last bit
    assert (len(compiling), compiling[0].calls) == (1, 2)
    for name, content in artifact.pack(model).items():
        (tmp_path / name).write_bytes(content)
    for number, twin in enumerate((masks.clone(model), toolkit.load(tmp_path)), start=2):
        with torch.inference_mode():
            assert torch.equal(twin(inputs), expected)
        assert len(compiling) == number
        assert set(twin.state_dict()) == {f"model.{name}" for name in model.model.state_dict()}


def test_on_auto_a_model_compiles_itself_where_that_is_faster(compiling, taking):
    asked = taking(1.5, 0.5)
    model, values, resolved = quantize(toy_mlp(), compile="auto", max_drop=5.0)
    assert asked == [(["as it is", "compiled"], [1, 64])]
    assert isinstance(model, Compiled)
    assert resolved.compile is True
    assert values["compile"].text == (
        "compiled, because that is faster over all batch sizes on this machine (timed in turn)"
    )
    assert values["compile"].table == [{"compiled time of uncompiled @1": 1.5, "compiled time of uncompiled @64": 0.5}]


def test_on_auto_a_model_stays_as_it_is_where_compiled_it_is_slower(compiling, taking):
    asked = taking(0.9, 50.0, 1.0)
    model, values, resolved = quantize(toy_mlp(), compile="auto", batch_sizes=[2, 3, 5], max_drop=5.0)
    assert asked == [(["as it is", "compiled"], [2, 3, 5])]
    assert not isinstance(model, Compiled)
    assert resolved.compile is False
    assert values["compile"].text.startswith("not compiled, because that is not faster over all")


def test_a_model_that_has_to_compile_itself_does_and_it_is_said_that_this_is_slower(compiling, taking):
    taking(1.2, 1.1)
    model, values, resolved = quantize(toy_mlp(), compile=True, max_drop=5.0)
    assert isinstance(model, Compiled)
    assert resolved.compile is True
    assert "compiled as asked, though that is not faster on this machine" in values["compile"].text


def test_on_auto_what_cannot_be_compiled_stays_as_it_is(uncompilable):
    model, values, resolved = quantize(toy_mlp(), compile="auto", max_drop=5.0)
    assert not isinstance(model, Compiled)
    assert resolved.compile is False
    assert "that fails on this machine: RuntimeError: no C++ compiler" in values["compile"].text


def test_on_auto_an_engine_that_cannot_be_compiled_is_not():
    model, values, resolved = quantize(toy_mlp(), engine="torch", compile="auto", max_drop=5.0)
    assert isinstance(model[1], TorchInt8Linear)
    assert resolved.compile is False
    assert "compile" not in values


def test_a_model_that_somebody_looks_into_runs_as_it_is(compiling):
    model = Compiled(toy_mlp()).eval()
    inputs = DATA.example(4).inputs
    with FlopCounterMode(display=False) as counter:
        model(inputs)
    assert counter.get_total_flops() > 0
    handle = model.model[1].register_forward_hook(lambda *given: None)
    model(inputs)
    handle.remove()
    assert compiling == []
    torch.export.export(model, (inputs,))
    model(inputs)
    assert len(compiling) == 1


@pytest.fixture
def uncompilable(monkeypatch):
    def fail(model, **options):
        def call(*args, **kwargs):
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(self_compiling.torch, "compile", fail)


def test_a_model_that_cannot_be_compiled_here_is_refused(uncompilable):
    message = "the model cannot be compiled on this machine, leave compile out: RuntimeError: no C"
    with pytest.raises(TechniqueError, match=message):
        quantize(toy_mlp(), compile=True, max_drop=5.0)


def test_a_model_that_was_loaded_runs_even_where_it_cannot_be_compiled(uncompilable):
    model = Compiled(toy_mlp())
    inputs = DATA.example(4).inputs
    with pytest.warns(RuntimeWarning, match=r"the model runs without being compiled: no C\+\+ compiler"):
        outputs = model(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(model(inputs), outputs)
    with pytest.raises(IndexError):  # of the model itself
        Compiled(toy_mlp())(torch.ones(3))


@pytest.mark.slow
@in_a_child
def test_a_compiled_model_computes_the_same_and_keeps_promises(recipe_run):
    outcome = recipe_run(
        """
        [[stages]]
        technique = "pruning"

        [[stages]]
        technique = "quantization"
        params = { compile = true, max_drop = 5.0 }
        """
    )
    assert outcome.error == ""
    model = outcome.model
    assert isinstance(model, Compiled)
    assert outcome.rows[2]["sparsity"] >= outcome.rows[1]["sparsity"] - 1e-3
    inputs = replace(DATA).example(16).inputs
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), model.model(inputs), rtol=1e-4, atol=1e-5)
    assert model.failure == ""
