"""Every clause of the contracts catches what it is there for: mutants of a sound technique, clause by clause."""

import pytest
from torch import nn

from toolkit.errors import TechniqueError
from toolkit.testing import check_contract

SOUND = '''
"""Halves the weights of linear layers, which costs nothing."""
import torch
from pydantic import Field
from torch import nn
import toolkit

SEEN = []

class Params(toolkit.Params):
    factor: float = Field(default=0.5, gt=0, le=1, description="what every weight is multiplied by")

@toolkit.hookimpl
def prepare(model, params, data, reference):
    return {}

@toolkit.hookimpl
def optimize(model, params, data, prepared):
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(params.factor)
    return model

@toolkit.hookimpl
def finetune(model, params, prepared, training):
    return training.using(loss=lambda outputs, batch: training.loss(outputs, batch) * 2)

@toolkit.hookimpl
def finish(model):
    return model

@toolkit.hookimpl
def measure(model, prepared):
    return {"norm": sum(weight.abs().sum().item() for weight in model.parameters())}
'''
RESULT = "    return model\n"
PREPARED = "    return {}\n"
NORM = '    return {"norm"'

# name of the clause (as a part of it), what is replaced in SOUND by what, what the author is told
MUTANTS = [
    ("it says what it does", '"""Halves', "'''\n'''\n\"\"\"Halves", "docstring"),
    ("default a range", "gt=0, le=1, ", "", "give the param 'factor' a range"),
    ("default a range", ', description="what every weight is multiplied by"', "", "give the param 'factor' a descr"),
    ("input model and the reference", PREPARED, "    reference.note = 1\n    return {}\n", "left on the reference"),
    (
        "input model and the reference",
        PREPARED,
        "    model[0].train()\n    return {}\n",
        "changed the stage's input model",
    ),
    (
        "input model and the reference",
        PREPARED,
        "    model.register_forward_hook(lambda *args: None)\n    return {}\n",
        "left on the model",
    ),
    ("input model and the reference", PREPARED, "    next(reference.parameters()).zero_()\n    return {}\n", "changed"),
    ("same seed", "layer.weight.mul_(params.factor)", "layer.weight.add_(torch.seed() % 97)", "the seed of torch's"),
    (
        "same seed",
        "mul_(params.factor)",
        "add_(int.from_bytes(__import__('os').urandom(4)) / 2**32)",
        "draw from torch's global generator",
    ),
    (
        "remembers nothing",
        "layer.weight.mul_(params.factor)",
        "layer.weight.add_(len(SEEN)); SEEN.append(1)",
        "in betw",
    ),
    ("survives saving", RESULT, "    model.extra = [torch.ones(3)]\n    return model\n", "has a tensor in"),
    ("survives saving", RESULT, "    model.register_forward_hook(print)\n    return model\n", "has hooks"),
    ("works on every toy", "layer.weight.mul_(params.factor)", "layer.weight.div_(0.0)", "the loss is nan"),
    (
        "works on every toy",
        RESULT,
        "    model.register_buffer('bad', torch.tensor(torch.nan))\n    return model\n",
        "not finite",
    ),
    ("works on every toy", "    layers = [", "    model[1]\n    layers = [", "failed in optimize"),
    ("works on one toy", PREPARED, "    raise toolkit.TechniqueError('never')\n", "refuses every toy model"),
    (
        "without weights",
        PREPARED,
        "    next(iter(model.parameters()))\n    return {}\n",
        "failed in prepare with StopIter",
    ),
    (
        "same shape and keeps zeros",
        RESULT,
        "    from torch.nn.utils import parametrize\n    for m in model.modules():\n"
        "        if hasattr(m, 'parametrizations'):\n            toolkit.masks.fold(m)\n"
        "            m.weight.data.add_(1.0)\n    return model\n",
        "refilled zeros",
    ),
    (
        "same shape and keeps zeros",
        RESULT,
        "    return nn.Sequential(model, nn.Linear(4, 7))\n",
        "per sample, found (7,)",
    ),
    ("truth about training", RESULT, "    return model.requires_grad_(False)\n", "no parameters to train"),
    ("adds to the training", "training.using(", "type(training)(training.settings, ", "another technique's module"),
    (
        "adds to the training",
        "training.using(",
        "__import__('dataclasses').replace(training, weights=()).using(",
        "dropped another technique's weight function",
    ),
    (
        "interrupted after its training",
        "def finish(model):\n",
        "def finish(model):\n    SEEN.append(1)\n    next(model.parameters()).data.add_(len(SEEN))\n",
        "a second call of finish on the trained model returns another result",
    ),
    (
        "interrupted training",
        "training.loss(outputs, batch) * 2",
        "training.loss(outputs, batch) * (SEEN.append(1) or len(SEEN))",
        "an interrupted training ends with another result",
    ),
    (
        "its loss is a scalar",
        "training.loss(outputs, batch) * 2",
        "training.loss(outputs, batch).expand(2)",
        "must return one number, found a tensor of shape (2,)",
    ),
    ("global state", RESULT, "    torch.set_num_threads(3)\n    return model\n", "the number of threads from 1 to 3"),
    ("global state", RESULT, "    print('hello')\n    return model\n", "stdout is for the command's result"),
    (
        "global state",
        "(outputs, batch) * 2",
        "(outputs, batch) * 2 + 0 * len(str(print('x')))",
        "printed while training",
    ),
    (
        "global hooks",
        RESULT,
        "    nn.modules.module.register_module_forward_hook(lambda *args: None)\n    return model\n",
        "registers hooks for all modules",
    ),
    ("measures numbers", NORM, "    next(model.parameters()).mul_(2)\n" + NORM, "must not change the model"),
    ("measures numbers", '"norm"', '"the norm"', "must be Python identifiers"),
    (
        "measures numbers",
        'return {"norm": ',
        'SEEN.append(1)\n    return {"norm": len(SEEN) + ',
        "two measurements differ",
    ),
    (
        "can be written and read",
        "class Params(toolkit.Params):",
        "class Params(toolkit.Params):\n"
        "    def model_post_init(self, _): object.__setattr__(self, 'factor', self.factor / 2)\n",
        "stay equal when they are written and read",
    ),
    (
        "puts in another model",
        RESULT,
        "    assert not any(type(module) is nn.Identity for module in model)\n" + RESULT,
        "failed in optimize",
    ),
    (
        "can be cloned",
        RESULT,
        "    for m in model.modules():\n        m.__deepcopy__ = lambda memo, m=m: m\n    return model\n",
        "shares tensors",
    ),
    ("no validation split", PREPARED, "    data.split('validation')\n    return {}\n", "no validation split"),
    (
        "may come twice",
        RESULT,
        "    assert not hasattr(model, 'done')\n    model.done = True\n    return model\n",
        "failed in optimize",
    ),
]


@pytest.fixture
def broken(make_plugin):
    """The clauses that a technique of this source breaks, with what is said."""

    def broken(source, only=""):
        make_plugin("mutant", source)
        verdicts = list(check_contract("mutant", clause=only))
        assert verdicts, only
        return [verdict for verdict in verdicts if verdict.problem]

    return broken


def test_a_sound_technique_keeps_all_clauses(broken):
    assert broken(SOUND) == []


@pytest.mark.parametrize(("clause", "old", "new", "said"), MUTANTS)
def test_a_broken_clause_is_told(broken, clause, old, new, said):
    assert SOUND.count(old) >= 1
    found = broken(SOUND.replace(old, new, 1), clause)
    told = [verdict.problem for verdict in found if clause in verdict.clause]
    assert any(said in problem for problem in told), found


TIMED = '''
"""Scales weights by the time of the model itself."""
import torch
from pydantic import Field
import toolkit

class Params(toolkit.Params):
    factor: float = Field(default=0, ge=0, description="what every weight is multiplied by; 0 to decide by timing")

@toolkit.hookimpl
def prepare(timer):
    return {"timer": timer}

@toolkit.hookimpl
def optimize(model, params, prepared):
    prepared["factor"] = params.factor or 0.5 * prepared["timer"].ratio(model).ratio
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(prepared["factor"])
    return model

@toolkit.hookimpl
def resolve(params, prepared):
    return params.model_copy(update={"factor": prepared["factor"]})
'''
TIMED_MUTANTS = [
    ('update={"factor": prepared["factor"]}', "", "it asks its timer again; return from resolve what it decided"),
    ('"factor": prepared["factor"]', '"factor": 0.25', "its resolved params give another result"),
]


def test_a_decision_by_timing_that_can_be_repeated_keeps_its_clause(broken):
    assert broken(TIMED, "its resolved params repeat") == []


@pytest.mark.slow
def test_a_technique_that_decides_by_timing_keeps_all_clauses(broken):
    assert broken(TIMED) == []


@pytest.mark.parametrize(("old", "new", "said"), TIMED_MUTANTS)
def test_a_decision_by_timing_that_cannot_be_repeated_is_told(broken, old, new, said):
    [verdict] = broken(TIMED.replace(old, new, 1), "its resolved params repeat")
    assert said in verdict.problem


WATCHING = '''
"""Counts weights."""
import torch
from pydantic import Field
import toolkit

class Params(toolkit.Params):
    every: int = Field(default=1, ge=1, description="of something")

@toolkit.hookimpl
def on_start(directory):
    return []

@toolkit.hookimpl
def measure(model, data, prepared):
    return {"weights": sum(weight.numel() for weight in model.parameters())}
'''
WATCHING_MUTANTS = [
    ("it says what it does", '"""Counts', "'''\n'''\n\"\"\"Counts", "docstring"),
    ("default a range", "ge=1, ", "", "give the param 'every' a range"),
    ("prints nothing", "    return []", "    print('hello')\n    return []", "stdout is for the command's result"),
    ("prints nothing", "    return []", "    1 / 0", "failed in on_start with ZeroDivisionError"),
    (
        "changes nothing",
        "    return []",
        "    torch.nn.Linear.forward = lambda self, x: 1.1 * torch.nn.functional.linear(x, self.weight, self.bias)\n"
        "    return []",
        "an observer must not change models",
    ),
    ("every row alike", '{"weights"', '{f"weights{prepared.append(1) or len(prepared)}"', "rows have other numbers"),
]


@pytest.mark.parametrize(("clause", "old", "new", "said"), WATCHING_MUTANTS)
def test_a_broken_clause_of_a_run_wide_plugin_is_told(broken, monkeypatch, clause, old, new, said):
    monkeypatch.setattr(nn.Linear, "forward", nn.Linear.forward)  # one of the mutants replaces it
    found = broken(WATCHING.replace(old, new, 1), clause)
    assert any(said in verdict.problem for verdict in found if clause in verdict.clause), found


@pytest.mark.smoke
def test_a_sound_run_wide_plugin_keeps_all_clauses(broken):
    assert broken(WATCHING) == []


RUNTIME = '''
"""Runs MLPs in numpy."""
import numpy as np
from pydantic import Field
import toolkit

class Params(toolkit.Params):
    digits: int = Field(default=7, ge=1, description="digits of the weights")

@toolkit.hookimpl
def export(model, folder):
    np.savez(folder / "weights.npz", *(tensor.numpy() for tensor in model.state_dict().values()))

@toolkit.hookimpl
def open(folder, params, threads):
    import numpy
    first, first_bias, second, second_bias = numpy.load(f"{folder}/weights.npz").values()
    def run(inputs):
        hidden = numpy.maximum(inputs.reshape(len(inputs), -1) @ first.T + first_bias, 0)
        return hidden @ second.T + second_bias
    return run
'''
RUNTIME_MUTANTS = [
    ("says what it does", '"""Runs', "'''\n'''\n\"\"\"Runs", "docstring"),
    ("default a range", "ge=1, ", "", "give the param 'digits' a range"),
    ("prints nothing", "    np.savez", "    print('hello')\n    np.savez", "stdout is for the command's result"),
    (
        "unchanged",
        "    np.savez",
        "    model[1].weight.data.mul_(2)\n    np.savez",
        "must not write to the model's tensors",
    ),
    ("unchanged", "    np.savez", "    model.note = 1\n    np.savez", "must remove its hooks and attributes"),
    ("without its module", "    import numpy\n", "    numpy = np\n", "uses 'np' of its module"),
    ("any batch size", "second.T + second_bias", "second.T", "its outputs differ by"),
    ("any batch size", "reshape(len(inputs), -1)", "reshape(2, -1)", "cannot be run: ValueError"),
]


@pytest.mark.parametrize(("clause", "old", "new", "said"), RUNTIME_MUTANTS)
def test_a_broken_clause_of_a_runtime_is_told(broken, clause, old, new, said):
    found = [verdict for verdict in broken(RUNTIME.replace(old, new, 1), clause) if said in verdict.problem]
    assert found
    assert any("[mlp]" in verdict.clause for verdict in found) or clause != "any batch size"


def test_a_sound_runtime_breaks_a_clause_for_other_networks_only(broken):
    problems = [verdict.clause for verdict in broken(RUNTIME)]
    assert len(problems) == 5
    assert all("any batch size" in clause and "[mlp]" not in clause for clause in problems)


def test_a_runtime_without_open_is_not_one(broken):
    with pytest.raises(TechniqueError, match="has no hook open, which a runtime requires; define it"):
        broken(RUNTIME.partition("@toolkit.hookimpl\ndef open")[0])
