"""Deliberately bad plugins, installed like any other: each ends in one sentence that says whose fault it is and what
to do, and leaves torch as it was."""

import os

import pytest
import torch

HEAD = "import torch\nfrom torch import nn\nfrom pydantic import Field\nimport toolkit\n"
STAGE = '[[stages]]\ntechnique = "bad"\nfinetune = { epochs = 1 }\n'
WHO = "'bad' (bad-plugin 1.0)"


def hook(body, name="optimize", arguments="model"):
    return f"{HEAD}@toolkit.hookimpl\ndef {name}({arguments}):\n    {body}\n"


# found when the recipe is read: nothing has been run, nothing written
AT_READING = {
    "import error": ("import nowhere_at_all", ["cannot be imported: ModuleNotFoundError", "pip install 'bad-plugin'"]),
    "syntax error": ("def :", ["cannot be imported: SyntaxError", "update or uninstall bad-plugin"]),
    "exits on import": ("import sys; sys.exit(3)", ["cannot be imported: SystemExit: 3", "update or uninstall"]),
    "no hook": (HEAD, ["implements no hook; define at least one of finetune, finish, measure, optimize, prepare"]),
    "unmarked": (
        f"{HEAD}def optimize(model): return model",
        ["optimize that is not marked as a hook; add @toolkit.hookimpl"],
    ),
    "misspelt hook": (
        hook("return model", "optimise"),
        ["marks 'optimise' as a hook, but no hook has that name; did you mean 'optimize'?"],
    ),
    "misspelt argument": (
        hook("return modle", arguments="modle"),
        ["optimize has no argument 'modle'; did you mean 'model'?"],
    ),
    "keyword-only": (
        hook("return model", arguments="*, model"),
        ["'model' of optimize has a default or is keyword-on"],
    ),
    "default": (hook("return model", arguments="model, x=1"), ["'x' of optimize has a default", "make it a plain arg"]),
    "any keywords": (
        hook("return None", arguments="**all"),
        ["optimize takes '*all', which stays empty; name the arg"],
    ),
    "wrong Params": (f"{hook('return model')}Params = dict", ["Params must be a class derived from toolkit.Params"]),
    "pydantic's own Params": (
        f"{hook('return model')}import pydantic\nclass Params(pydantic.BaseModel): pass",
        ["Params must be a class derived from toolkit.Params"],
    ),
    "wrong default": (
        f"{hook('return model')}class Params(toolkit.Params):\n    rate: float = Field(default=2.0, le=1)",
        ["Params cannot be built from its defaults, 'rate'", "give every field a valid default"],
    ),
    "no default": (
        f"{hook('return model')}class Params(toolkit.Params):\n    rate: float",
        ["Params cannot be built from its defaults, 'rate'", "give every field a valid default"],
    ),
    "run-wide": (hook("pass", "on_step", "step"), ["has the hook on_step; name it under [[plugins]]"]),
    "threads on import": (
        f"import torch\ntorch.set_num_threads(3)\n{hook('return model')}",
        ["changed the number of threads from 1 to 3 when it was imported; restore it"],
    ),
}
# found while the stage runs: hook, its body and its arguments
WHILE_RUNNING = {
    "returns None": ("optimize", "model", "pass", ["must return the model from optimize, found NoneType; end it with"]),
    "returns a tuple": ("optimize", "model", "return model, 1", ["from optimize, found tuple; return it alone"]),
    "finetune returns a model": (
        "finetune",
        "model, training",
        "return model",
        ["must return training.using(…) from finetune, found Sequential; leave the training"],
    ),
    "finetune returns None": (
        "finetune",
        "training",
        "training.using()",
        ["from finetune, found NoneType; or return training unch"],
    ),
    "raises": ("prepare", "model", "raise KeyError('x')", ["failed in prepare with KeyError: 'x'; see the traceback"]),
    "lacks an argument": (
        "measure",
        "model",
        "return data",
        ["failed in measure with NameError", "take 'data' as an ar"],
    ),
    "exits": (
        "optimize",
        "model",
        "import sys; sys.exit(4)",
        ["failed in optimize with SystemExit: 4; raise toolkit.Techn"],
    ),
    "changes the reference": (
        "prepare",
        "reference",
        "reference[1].weight.data.zero_()",
        [
            "changed the reference in prepare at '1.weight'",
            "change the model that optimize receives, or a toolkit.masks.clone",
        ],
    ),
    "measures a list": (
        "measure",
        "model",
        "return [1]",
        ["must return a dictionary of numbers and Notes from measure, found list"],
    ),
    "sets threads": (
        "optimize",
        "model",
        "torch.set_num_threads(3); return model",
        ["the number of threads from 1 to 3 in optimize; restore it before the hook returns"],
    ),
    "sets the dtype": (
        "prepare",
        "model",
        "torch.set_default_dtype(torch.float64)",
        ["changed the default dtype from float32 to float64 in prepare; restore it before the hook returns"],
    ),
    "sets the device": (
        "prepare",
        "model",
        "torch.set_default_device('meta')",
        ["the default device from cpu to meta"],
    ),
    "records no gradients": ("prepare", "model", "torch.set_grad_enabled(False)", ["whether gradients are recorded"]),
    "is deterministic": (
        "measure",
        "model",
        "torch.use_deterministic_algorithms(True)\n    return {}",
        ["changed the deterministic algorithms"],
    ),
    "seeds": (
        "prepare",
        "model",
        "torch.manual_seed(0)",
        ["changed the seed of torch's generator in prepare; draw from torch's gen"],
    ),
    "leaves the folder": ("prepare", "model", "import os; os.chdir('/')", ["changed the working directory from"]),
    "sets threads in a loss": (
        "finetune",
        "training",
        "return training.using(after_step=lambda step, steps: torch.set_num_threads(3))",
        ["changed the number of threads from 1 to 3 while training; restore it"],
    ),
}


@pytest.fixture(autouse=True)
def _as_it_was():
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device(), os.getcwd()
    yield
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device(), os.getcwd()) == before
    assert torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("case", AT_READING)
@pytest.mark.smoke
def test_what_is_wrong_with_a_module_is_said_before_anything_runs(make_plugin, recipe_run, case):
    source, parts = AT_READING[case]
    make_plugin("bad", source)
    outcome = recipe_run(STAGE)
    assert outcome.exit_code == 2
    assert not outcome.directory.exists()
    assert_one_sentence(outcome.error, "recipe.toml: stages.1.technique: ", parts)


@pytest.mark.parametrize("case", WHILE_RUNNING)
def test_what_is_wrong_with_a_hook_is_said_with_its_stage(make_plugin, recipe_run, case):
    name, arguments, body, parts = WHILE_RUNNING[case]
    source = hook(body, name, arguments)
    make_plugin("bad", source)
    outcome = recipe_run(STAGE)
    assert outcome.exit_code == 1
    assert_one_sentence(outcome.error, "stage 1 (bad): ", parts)
    assert any(f"{where} {name}" in outcome.error for where in ("in", "from")) or "while training" in outcome.error
    assert "Traceback" in outcome.log


def assert_one_sentence(error, place, parts):
    assert error.startswith(f"{place}{WHO}"), error
    assert "\n" not in error
    assert all(part in error for part in parts), error


def test_a_print_goes_to_stderr_and_the_log_and_ends_nothing(make_plugin, recipe_run):
    make_plugin("bad", hook("print('hello, author')\n    return model"))
    outcome = recipe_run(STAGE)
    assert outcome.error == ""
    assert outcome.stdout == ""
    assert "hello, author" in outcome.stderr
    assert f"{WHO} printed in optimize; use a Note or a log instead: hello, author" in outcome.log


def test_a_state_that_is_put_back_is_no_change(make_plugin, recipe_run):
    body = "torch.set_num_threads(3); torch.set_num_threads(1)\n    torch.rand(3); return model"
    make_plugin("bad", hook(body))
    assert recipe_run(STAGE).error == ""


def test_what_a_hook_raises_comes_before_what_it_changed(make_plugin, recipe_run):
    make_plugin("bad", hook("torch.set_num_threads(3); raise ValueError('first')"))
    assert "failed in optimize with ValueError: first" in recipe_run(STAGE).error


def test_a_missing_package_of_an_extra_is_one_sentence_with_the_command(make_plugin, recipe_run):
    make_plugin("bad", "import nowhere_at_all", extras="Provides-Extra: bad\n")
    assert recipe_run(STAGE).error == (
        f"recipe.toml: stages.1.technique: {WHO} cannot be imported: ModuleNotFoundError: No module named "
        "'nowhere_at_all'; install what it needs with pip install 'bad-plugin[bad]'"
    )


OBSERVERS = {
    "optimizes": (
        hook("return model"),
        "has the hook optimize; name it as the technique of a stage, because it changes models",
    ),
    "prepares": (hook("pass", "prepare"), "has the hook prepare; name it as the technique of a stage"),
    "trains": (hook("return training", "finetune", "training"), "has the hook finetune; name it as the technique"),
    "misspelt": (
        hook("pass", "on_rwo", "row"),
        "marks 'on_rwo' as a hook, but no hook has that name; did you mean 'on_row'?",
    ),
    "no such argument": (hook("pass", "on_row", "model"), "on_row has no argument 'model'"),
}


@pytest.mark.parametrize("case", OBSERVERS)
def test_what_is_wrong_with_a_run_wide_plugin_is_said_before_anything_runs(make_plugin, recipe_run, case):
    source, part = OBSERVERS[case]
    make_plugin("bad", source)
    outcome = recipe_run('[[stages]]\ntechnique = "pruning"\n[[plugins]]\nname = "bad"')
    assert outcome.exit_code == 2
    assert_one_sentence(outcome.error, "recipe.toml: plugins.1.name: ", [part])


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (hook("model[1].weight.data.zero_()", "measure"), "changed the row's model in measure at '1.weight'"),
        (hook("torch.set_num_threads(3)", "on_stage", "stage"), "changed the number of threads from 1 to 3"),
        (hook("1 / 0", "on_row", "row"), "failed in on_row with ZeroDivisionError"),
    ],
)
def test_a_run_wide_plugin_that_changes_something_or_fails_is_named(make_plugin, recipe_run, source, part):
    make_plugin("bad", source)
    outcome = recipe_run('[[stages]]\ntechnique = "pruning"\n[[plugins]]\nname = "bad"')
    assert outcome.exit_code == 1
    assert_one_sentence(outcome.error, "stage 0 (baseline): ", [part])
