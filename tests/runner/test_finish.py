"""The hook `finish`, after the training of a stage, and the later stages that `finetune` may look at."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import toolkit
from toolkit import hookimpl, masks
from toolkit.errors import TechniqueError
from toolkit.hooks import loading
from toolkit.hooks.loading import from_module
from toolkit.params import Params
from toolkit.recipe.read import PluginUse, Stage, parse_recipe
from toolkit.recipe.successors import successors
from toolkit.runner.stage import perform
from toolkit.storage.identity import result_keys
from toolkit.testing import toy_data, toy_mlp
from toolkit.training import TrainingSettings

EPOCH = TrainingSettings(epochs=1, lr=1e-2)


def use(name="mine", **hooks):
    module = SimpleNamespace(**{hook: hookimpl(function) for hook, function in hooks.items()})
    return PluginUse(from_module(module, name, "tests 1.0"), Params())


def performed(*uses, finetune=EPOCH, model=None, **options):
    model = model or toy_mlp()
    reference = masks.clone(model).eval().requires_grad_(False)
    stage = Stage(1, "stage", uses, 0, finetune)
    return perform(stage, model.eval(), reference, toy_data(), **options)


@pytest.mark.parametrize("finetune", [EPOCH, None], ids=["trained", "not trained"])
def test_it_is_called_once_after_the_training_and_returns_the_result(finetune):
    events, result = [], nn.Sequential(toy_mlp())

    def prepare():
        return "ready"

    def of_the_first(model, data, prepared):
        events.append(["finish", model.training, data.test, prepared])
        return model

    def of_the_second(model):
        events.append(["second"])
        return result.train()

    def finetuned(training):
        return training.using(after_step=lambda _step, _steps: events.append(["step"]))

    first = use("first", prepare=prepare, finish=of_the_first, finetune=finetuned)
    outcome = performed(first, use("second", finish=of_the_second), finetune=finetune)
    steps = [["step"]] * (len(events) - 2)
    assert bool(steps) == (finetune is not None)
    assert events == [*steps, ["finish", False, None, "ready"], ["second"]]
    assert outcome.model is result
    assert not outcome.model.training


def test_it_gets_the_trained_weights():
    model, weights = toy_mlp(), []

    def finish(model):
        weights.append(model[1].weight.detach().clone())
        with torch.no_grad():
            model[1].weight.zero_()
        return model

    outcome = performed(use(finish=finish), model=model)
    assert not torch.equal(weights[0], model[1].weight)
    assert not outcome.model[1].weight.any()


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (None, "must return the model from finish, found NoneType; end it with 'return model'"),
        ((1, 2), "must return the model from finish, found tuple; return it alone"),
        (
            nn.Sequential(toy_mlp(), nn.Linear(4, 7)),
            "must return a model with outputs of shape (4,) per sample, found (7,)",
        ),
    ],
)
def test_what_is_no_model_is_said(result, sentence):
    with pytest.raises(TechniqueError) as failure:
        performed(use(finish=lambda model: result))
    assert str(failure.value).startswith(f"'mine' (tests 1.0) {sentence}")


def test_what_it_raises_names_the_hook():
    def finish(model):
        raise ValueError("no")

    with pytest.raises(TechniqueError, match=r"^'mine' \(tests 1\.0\) failed in finish with ValueError: no"):
        performed(use(finish=finish))


def test_a_guarded_model_that_it_changes_is_said():
    held = []

    def prepare(reference):
        held[:] = [reference]

    def finish(model):
        held[0][1].weight.data.zero_()
        return model

    with pytest.raises(TechniqueError, match=r"^'mine' \(tests 1\.0\) changed the reference in finish at '1\.weight'"):
        performed(use(prepare=prepare, finish=finish))


def pruned():
    model = toy_mlp()
    masks.apply(model, {"1.weight": torch.arange(32 * 64).view(32, 64) % 2 == 0})
    return model


def unmasked_in_training(model, training):
    def after_step(_step, _steps):
        masks.fold(model[1])

    return training.using(after_step=after_step)


def masked_again(model):
    masks.apply(model, {"1.weight": torch.arange(32 * 64).view(32, 64) % 2 == 0})
    return model


def test_promises_are_checked_after_it():
    with pytest.raises(TechniqueError, match="refilled zeros"):
        performed(use(finetune=unmasked_in_training), model=pruned())
    outcome = performed(use(finetune=unmasked_in_training, finish=masked_again), model=pruned())
    assert int((outcome.model[1].weight == 0).sum()) == 1024


def refilled(model):
    masks.fold(model[1])
    model[1].weight.data.fill_(1.0)
    return model


def test_who_breaks_a_promise_in_it_is_named():
    first, last = use("first", finish=lambda model: model), use("last", finish=lambda model: model)
    with pytest.raises(TechniqueError) as failure:
        performed(first, use("mine", finish=refilled), last, model=pruned())
    assert str(failure.value).startswith("'mine' (tests 1.0) refilled zeros that an earlier stage made in '1.weight'")
    with pytest.raises(TechniqueError) as failure:
        performed(first, use("mine", finetune=unmasked_in_training), last, model=pruned())
    assert str(failure.value).startswith("'first' (tests 1.0) with 'mine' (tests 1.0) with 'last' (tests 1.0) refilled")


INTERRUPTED = """
import pathlib
import torch
import toolkit

@toolkit.hookimpl
def finetune(training):
    return training.using(weights={"1.weight": lambda weight: weight + 0.1 * torch.randn_like(weight)})

@toolkit.hookimpl
def finish(model):
    flag = pathlib.Path(FLAG)
    if flag.exists():
        flag.unlink()
        raise KeyboardInterrupt
    with torch.no_grad():
        model[1].weight.add_(torch.rand_like(model[1].weight))
    return model
"""
RECIPE = """
name = "toy"
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 1 }
[data]
source = "toolkit.testing:toy_data"
[measure]
budget = 0.05
[[stages]]
technique = "mine"
finetune = { epochs = 2 }
"""


def test_a_run_that_is_interrupted_in_it_runs_it_again_on_the_trained_model(make_plugin, tmp_path):
    flag = tmp_path / "flag"
    make_plugin("mine", INTERRUPTED.replace("FLAG", repr(str(flag))))
    recipe = parse_recipe(RECIPE, "toy.toml", tmp_path)
    toolkit.run(recipe, output=tmp_path / "whole", cache=False)
    flag.touch()
    with pytest.raises(KeyboardInterrupt):
        toolkit.run(recipe, output=tmp_path / "stopped", cache=False)
    toolkit.run(recipe, output=tmp_path / "stopped", cache=False)
    assert "resuming after step 8" in (tmp_path / "stopped" / "log.txt").read_text()
    whole, stopped = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


# The later stages.

CHAIN = """
name = "toy"
[model]
source = "toolkit.testing:toy_mlp"
[data]
source = "toolkit.testing:toy_data"
[measure]
budget = 0.05
[[stages]]
technique = "looks"
finetune = { epochs = 1 }
[[stages]]
technique = "pruning"
[[stages]]
name = "again"
technique = "pruning"
from = "baseline"
[[stages]]
technique = "quantization"
from = "pruning"
params = { dtype = "int4" }
"""
LOOKS = """
import toolkit

class Params(toolkit.Params):
    pass

@toolkit.hookimpl
def finetune(training, stages):
    seen = [(use.plugin.name, getattr(use.params, "dtype", None)) for stage in stages for use in stage.uses]
    assert isinstance(stages, tuple)
    assert seen == [("pruning", None), ("quantization", "int4")], seen
    return training
"""


def test_finetune_sees_the_later_stages_that_build_on_its_own(make_plugin, tmp_path):
    make_plugin("looks", LOOKS)
    report = toolkit.run(parse_recipe(CHAIN, "toy.toml", tmp_path), output=tmp_path / "run", cache=False)
    assert len(report.rows) == 5


def test_a_stage_that_replaces_the_model_ends_the_chain(tmp_path):
    prune = '[[stages]]\ntechnique = "pruning"\n'
    params = '{ student = { source = "toolkit.testing:toy_mlp" } }'
    student = f'[[stages]]\ntechnique = "distillation"\nfinetune = {{ epochs = 1 }}\nparams = {params}\n'
    text = CHAIN.partition("[[stages]]")[0] + prune + prune + student + prune
    recipe = parse_recipe(text, "toy.toml", tmp_path)
    numbers = [[later.number for later in successors(recipe.stages, stage)] for stage in recipe.stages]
    assert numbers == [[2], [], [4], []]


@pytest.mark.parametrize("looks", [True, False])
def test_a_result_depends_on_later_stages_if_a_technique_looks_at_them(make_plugin, tmp_path, looks):
    source = LOOKS if looks else LOOKS.replace(", stages", "").replace("for stage in stages", "for stage in ()")
    make_plugin("looks", source)
    loading.load.cache_clear()
    keys = []
    for dtype in ("int4", "int8"):
        recipe = parse_recipe(CHAIN.replace("int4", dtype), "toy.toml", tmp_path)
        content = recipe.table.model_dump(by_alias=True, exclude_none=True)
        names = ("model toolkit.testing:toy_mlp", "data toolkit.testing:toy_data")
        techniques = (f"technique {name}" for name in ("looks", "pruning", "quantization"))
        sources = dict.fromkeys([*names, *techniques], "hash")
        identity = {"recipe": content, "sources": sources, "data": {}, "environment": {}}
        keys.append(result_keys(recipe, identity))
    assert (keys[0][1] != keys[1][1]) == looks
    assert keys[0][0] == keys[1][0]
    assert keys[0][3] == keys[1][3], "a stage that starts from the baseline"
