"""The timer of a stage: what it times, and that a resumed or cached stage decides by the same times."""

import itertools
import signal
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from toolkit import hookimpl
from toolkit.errors import TechniqueError
from toolkit.hooks.loading import from_module
from toolkit.interruption import Interrupted, Stop
from toolkit.params import Params
from toolkit.recipe.read import PluginUse, Stage, parse_recipe
from toolkit.recipe.timed_as import timed_as
from toolkit.runner import stage_timer as timers
from toolkit.runner.stage import perform
from toolkit.runner.stage_timer import counting_timer, stage_timer
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.identity import result_keys
from toolkit.storage.run_directory import RunDirectory
from toolkit.testing import toy_data, toy_mlp
from toolkit.timing import Timer, TimeRatio
from toolkit.training import TrainingSettings

HEAD = """
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 1 }
[data]
source = "toolkit.testing:toy_data"
[[stages]]
technique = "pruning"
"""
SECOND = '[[stages]]\ntechnique = "quantization"\n'
ONNX = '[[exports]]\nruntime = "onnxruntime"\n'
IDENTITY: dict[str, Any] = {"sources": {}, "recipe": {"stages": [{}]}, "environment": {}, "data": {}}


@pytest.fixture
def recipe(tmp_path):
    return lambda text: parse_recipe(HEAD + text, "toy.toml", tmp_path)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(timers, "BUDGET_S", 0.05)


def timed_in(recipe, stage=1):
    use, batch_size = timed_as(recipe, recipe.stages[stage - 1])
    return (use and use.plugin.name), batch_size


def test_a_stage_is_timed_as_its_export_runs_or_that_of_a_later_stage(recipe):
    assert timed_in(recipe("")) == (None, 1)
    assert timed_in(recipe(ONNX)) == ("onnxruntime", 1)
    assert timed_in(recipe(SECOND + ONNX + "[measure]\nbatch_sizes = [16, 1]")) == ("onnxruntime", 16)
    assert timed_in(recipe(ONNX + 'from = "baseline"')) == (None, 1)
    both = recipe(SECOND + ONNX + '[[exports]]\nruntime = "pt2"\nfrom = "pruning"')
    assert (timed_in(both, 1), timed_in(both, 2)) == (("pt2", 1), ("onnxruntime", 1))


def test_the_time_is_next_to_that_of_the_stages_input(recipe, quick):
    """No time is compared: a network with a thousand times as much to compute is far from the limit."""
    table = recipe("[measure]\nbatch_sizes = [64]")
    timer = stage_timer(table, table.stages[0], toy_mlp(16), toy_data())
    ratio, low, high = timer.ratio(toy_mlp(4096))
    assert (timer.runtime, timer.batch_size) == ("PyTorch", 64)
    assert 1 < low <= ratio <= high
    assert timer.answers == [(ratio, low, high)]


@pytest.mark.slow  # exports twice
def test_it_is_timed_in_the_runtime_of_the_export(recipe, quick):
    table = recipe(ONNX)
    timer = stage_timer(table, table.stages[0], toy_mlp(16), toy_data())
    ratio, low, high = timer.ratio(toy_mlp(16))
    assert timer.runtime == "onnxruntime"
    assert 0 < low <= ratio <= high


class Unexportable(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4] if x.sum() > 0 else -x.flatten(1)[:, :4]


def test_a_model_that_the_runtime_cannot_export_is_refused_in_a_sentence(recipe):
    table = recipe(ONNX)
    timer = stage_timer(table, table.stages[0], Unexportable(), toy_data())

    def optimize(model, prepared):
        prepared.ratio(model)
        return model

    stage = Stage(1, "stage", (asking(optimize=optimize),))
    with pytest.raises(TechniqueError, match=r"refused in optimize: 'onnxruntime' .* refused in export: ") as caught:
        perform(stage, Unexportable(), Unexportable(), toy_data(), timer=timer)
    assert "\n" not in str(caught.value)


def test_nothing_is_timed_in_a_rehearsal(recipe):
    table = replace(recipe(ONNX), is_rehearsal=True)
    timer = stage_timer(table, table.stages[0], toy_mlp(16), toy_data())
    assert timer.ratio(toy_mlp(8)) == (0.5, 0.5, 0.5)


def asking(asks_timer=True, **hooks):
    class MyParams(Params):
        @property
        def asks_timer(self):
            return asks_timer

    hooks = {"prepare": lambda timer: timer, **hooks}
    module = SimpleNamespace(**{hook: hookimpl(function) for hook, function in hooks.items()})
    return PluginUse(from_module(module, "asking", "tests 1.0"), MyParams())


def test_an_interrupted_stage_decides_by_the_times_that_it_measured_first(tmp_path):
    counter, decided, stop = itertools.count(), [], Stop()

    def optimize(model, prepared):
        decided.append([prepared.ratio(model).ratio, prepared.ratio(model).ratio])
        return model

    def finish(model, prepared):
        decided.append(prepared.ratio(model).ratio)
        return model

    def performed(stop, on_step=None):
        timer = Timer("fake", 1, lambda _: TimeRatio(float(next(counter)), 0, 9))
        checkpoints = TrainingCheckpoints(RunDirectory(tmp_path), "key", stop)
        stage = Stage(1, "stage", (asking(optimize=optimize, finish=finish),), 0, TrainingSettings(epochs=2))
        perform(stage, toy_mlp(), toy_mlp(), toy_data(), on_step, checkpoints=checkpoints, timer=timer)

    with pytest.raises(Interrupted):
        performed(stop, lambda step, *_: stop.handle(signal.SIGINT, None) if step == 1 else None)
    performed(Stop())
    assert decided == [[0, 1], [0, 1], 2]


def test_the_cache_tells_runtimes_and_batch_sizes_apart_if_a_technique_asks(recipe):
    def key(text, use):
        table = recipe(text)
        table = replace(table, stages=(replace(table.stages[0], uses=(use,)),))
        sources = {f"model {table.model.source}": "", f"data {table.data.source}": "", "technique asking": ""}
        content = {"model": {}, "data": {}, "seed": 0, "stages": [{}]}
        return result_keys(table, {**IDENTITY, "sources": sources, "recipe": content})[1]

    texts = ["", "[measure]\nbatch_sizes = [8]", ONNX, ONNX + "params = { opset = 22 }\n"]
    keys = [key(text, asking()) for text in texts]
    assert None not in keys
    assert len(set(keys)) == 4
    assert len({key(text, asking(asks_timer=False)) for text in texts}) == 1
    assert len({key(text, asking(prepare=lambda: None)) for text in texts}) == 1


def test_counted_times_are_those_of_multiply_accumulates():
    assert counting_timer(toy_mlp(16), toy_data()).ratio(toy_mlp(4)) == (0.25, 0.25, 0.25)
