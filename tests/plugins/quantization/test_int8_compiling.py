"""Compiled int8 models: what they compute, and what is said where nothing can be compiled."""

import pytest
import torch
import torch._inductor.config
from in_a_child import in_a_child
from toolkit_quantization import Params, convert, inductor, kernels, relative_error
from toolkit_quantization.inductor import CompilableInt8Linear, UncompiledInt8Linear, compiled
from toolkit_quantization.torchao_int8 import TorchaoInt8Linear
from torch import nn

import toolkit
from toolkit.testing import toy_mlp


def test_without_a_compiler_one_sentence_says_what_is_missing():
    from torch._inductor import cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    try:
        with (
            torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
            pytest.raises(toolkit.TechniqueError, match=r"found none; install g\+\+ or clang"),
        ):
            compiled(convert(toy_mlp(), Params()))
    finally:
        cpp_builder.cpp_compiler_search.cache_clear()


@pytest.mark.slow
@in_a_child
def test_a_compiled_model_gives_what_the_model_gives_for_each_size_and_row():
    model = convert(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)), Params()).eval()
    run = compiled(model)
    rows = torch.randn(32, 64) * torch.logspace(-3, 3, 32).unsqueeze(1)
    whole = run(rows)
    assert relative_error(whole, model(rows)) < 1e-6
    assert not whole.requires_grad
    other = rows.flip(0)
    other[3:] = 0
    assert torch.equal(run(other)[:3], whole.flip(0)[:3])  # whatever else is in the batch
    assert relative_error(run(rows[:1]), model(rows[:1])) < 1e-6
    with torch.inference_mode():
        assert torch.equal(run(rows), whole)


def test_where_onednn_saturates_the_layers_run_as_they_are_in_what_is_compiled(monkeypatch):
    """Tracing them would multiply by `_int_mm`, which is dozens of times slower than float there."""
    given = []
    monkeypatch.setattr(inductor, "is_exact", lambda pack: False)
    monkeypatch.setattr(kernels, "PACK", kernels.fbgemm_signs_packed)
    monkeypatch.setattr(torch, "compile", lambda model, **options: given.append(model) or model)
    model = convert(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)), Params()).eval()
    run = compiled(model)
    assert [type(layer) for layer in given[0]] == [UncompiledInt8Linear, nn.ReLU, UncompiledInt8Linear]
    rows = torch.randn(5, 64)
    if kernels.is_exact(kernels.fbgemm_signs_packed):
        assert torch.equal(run(rows), model(rows))
        graphs = torch._dynamo.explain(given[0])(rows).graphs
        assert "_int_mm" not in "".join(graph.code for graph in graphs)


@pytest.mark.parametrize("onednn_is_exact", [False, True])
def test_layers_of_other_engines_are_compiled_as_they_are(monkeypatch, onednn_is_exact):
    given = []
    monkeypatch.setattr(inductor, "is_exact", lambda pack: onednn_is_exact)
    monkeypatch.setattr(torch, "compile", lambda model, **options: given.append(model) or model)
    own, other = convert(nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 10)), Params()).eval()
    compiled(nn.Sequential(own, TorchaoInt8Linear(other.weight, other.scale, other.bias)))
    replacement = CompilableInt8Linear if onednn_is_exact else UncompiledInt8Linear
    assert [type(layer) for layer in given[0]] == [replacement, TorchaoInt8Linear]
