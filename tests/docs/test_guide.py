"""The guide, docs/guide: it has every hook with every argument and every public name, and all of its code runs."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import toolkit
from toolkit import rounding
from toolkit.hooks import loading as techniques
from toolkit.hooks.checks import hook_names
from toolkit.hooks.specs import ObserverHooks, RuntimeHooks, TechniqueHooks
from toolkit.params import Params
from toolkit.testing import ObserverContract, TechniqueContract, check_contract
from toolkit.testing.distributions import write_distribution

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs" / "guide").glob("*.md"))}
GUIDE = "\n".join(PAGES.values())
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
FILES = {found[1]: text for _, text in BLOCKS if (found := re.match(r"# (\w+\.(?:py|toml))\n", text))}
ALONE = [text for language, text in BLOCKS if language == "python" and not re.match(r"# \w+\.py\n", text)]
HOOKS = [(spec, hook) for spec in (TechniqueHooks, ObserverHooks, RuntimeHooks) for hook in sorted(hook_names(spec))]
PROSE = re.sub(r"^#.*$", "", re.sub(r"^```.*?^```", "", GUIDE, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE)


def test_every_block_is_one_that_is_run_here():
    assert len(re.findall(r"^```", GUIDE, flags=re.MULTILINE)) == 2 * len(BLOCKS)
    assert {language for language, _ in BLOCKS} == {"python", "toml", "sh"}
    named = [language for language, text in BLOCKS if re.match(r"# \w+\.(?:py|toml)\n", text)]
    assert len(named) == len(FILES)  # or one of two with the same name would go unseen


def page_on(specification):
    """The page on the hooks of techniques, of run-wide plugins, or of runtimes."""
    return PAGES[{TechniqueHooks: "hooks", ObserverHooks: "observers", RuntimeHooks: "runtimes"}[specification]]


@pytest.mark.parametrize(("specification", "hook"), HOOKS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.smoke
def test_every_hook_is_there_with_every_argument(specification, hook):
    arguments = [name for name in inspect.signature(getattr(specification, hook)).parameters if name != "self"]
    assert f"## `{hook}({', '.join(arguments)})`" in page_on(specification)
    for argument in arguments:
        assert f"`{argument}`" in PROSE, argument


def test_it_shows_no_hook_that_is_not_there():
    shown = re.findall(r"^## `(\w+)\(", GUIDE, flags=re.MULTILINE)
    assert sorted(shown) == sorted(hook for _, hook in HOOKS)


def test_the_hooks_of_a_technique_are_in_the_order_of_the_run():
    shown = re.findall(r"^## `(\w+)\(", page_on(TechniqueHooks), flags=re.MULTILINE)
    assert shown == ["prepare", "optimize", "finetune", "finish", "resolve", "measure"]


@pytest.mark.parametrize(
    "module",
    [
        *(
            "toolkit",
            "toolkit.masks",
            "toolkit.operators",
            "toolkit.patterns",
            "toolkit.rounding",
            "toolkit.scoring",
            "toolkit.testing",
            "toolkit.timing",
        ),
        "toolkit.training",
    ],
)
def test_every_public_name_is_in_the_table(module):
    [row] = re.findall(rf"^\| `{re.escape(module)}` \| (.*) \|$", GUIDE, flags=re.MULTILINE)
    names = getattr(importlib.import_module(module), "__all__", ["Training", "TrainingSettings", "fit"])
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(names)


def test_every_property_of_params_is_explained():
    properties = [name for name, value in vars(Params).items() if isinstance(value, property)]
    assert properties
    assert all(f"| `{name}` |" in GUIDE for name in properties)


def test_every_keyword_of_training_is_explained():
    from toolkit.training import Training

    assert all(f"{name}=…" in GUIDE for name in inspect.signature(Training.using).parameters if name != "self")


@pytest.mark.parametrize("source", ALONE, ids=range(len(ALONE)))
def test_a_block_without_a_file_runs(source):
    exec(compile(source, "docs/guide", "exec"), {"__name__": "guide"})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The files of the guide in a folder, installed without pip, and the other modules beside them."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    about = tomllib.loads(FILES["pyproject.toml"])["project"]
    write_distribution(tmp_path, about["name"], about["entry-points"]["toolkit"], about["version"])
    write_distribution(
        tmp_path,
        "more",
        {name: f"toolkit_{name}" for name in ("half", "rows", "hint", "plain", "rounded")},
    )
    monkeypatch.syspath_prepend(tmp_path)
    techniques.load.cache_clear()
    yield tmp_path
    techniques.load.cache_clear()
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_every_module_of_it_is_one_of_the_project():
    assert set(FILES) == {
        *("toolkit_filters.py", "pyproject.toml", "test_filters.py", "recipe.toml"),
        *("toolkit_hint.py", "toolkit_half.py", "toolkit_rows.py", "toolkit_plain.py"),
        *("toolkit_rounded.py", "rounded.toml"),
    }


@pytest.mark.slow  # it runs pytest, and whole recipes
def test_the_commands_work_as_they_stand(project):
    [commands] = [text.splitlines() for language, text in BLOCKS if language == "sh"]
    assert commands[0] == "pip install -e ."  # which the fixture stands for
    assert len(commands) == 5
    folder = Path(sys.executable).parent
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    for command in commands[1:]:
        done = subprocess.run(
            command, shell=True, cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert "passed" in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        *("rows", "plain"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("filters", "hint", "half", "rounded")),
    ],
)
def test_its_plugins_keep_the_contract(project, name):
    verdicts = list(check_contract(name))
    assert len(verdicts) >= 5
    assert [str(verdict) for verdict in verdicts if verdict.problem] == []


def test_its_plugins_work_together(project, recipe_run):
    [plugin] = [text for language, text in BLOCKS if language == "toml" and not re.match(r"# ", text)]
    stages = ["filters", "hint", "half"]
    tables = [f'[[stages]]\ntechnique = "{name}"\n' for name in stages]
    text = '[model]\nsource = "toolkit.testing:toy_cnn"\ntraining = {}\n' + "finetune = {}\n".join(tables) + plugin
    outcome = recipe_run(text)
    assert outcome.error == ""
    lines = (outcome.directory / "plugins" / "rows" / "rows.csv").read_text().splitlines()
    assert [line.split(";")[0] for line in lines] == ["baseline", *stages]
    assert outcome.rows[3]["size_bytes"] < outcome.rows[2]["size_bytes"]


def test_its_technique_rounds_as_the_later_stage_does(project, recipe_run, monkeypatch):
    seen = {}
    straight_through = rounding.round_straight_through

    def watched(weight, dtype):
        seen[weight.shape] = dtype
        return straight_through(weight, dtype)

    monkeypatch.setattr(rounding, "round_straight_through", watched)
    outcome = recipe_run(FILES["rounded.toml"])
    assert outcome.error == ""
    assert seen == {(32, 64): "int4", (4, 32): "int8"}
    assert len(FILES["toolkit_rounded.py"].splitlines()) <= 25
    trained = toolkit.load(outcome.directory / "stages" / "1-rounded")
    stored = dict(outcome.model.named_modules())
    for path, dtype in (("1", "int4"), ("3", "int8")):
        weight = rounding.round_to(trained.get_submodule(path).weight, dtype)
        assert torch.equal(stored[path].dense_weight(), weight)


def test_the_number_of_inherited_tests_is_about_what_it_says():
    assert "some forty tests" in GUIDE
    made = type("Made", (TechniqueContract,), {"technique": "pruning"})
    clauses = [name for name in dir(made) if name.startswith("test_")]
    per_toy = [name for name in clauses if "toy" in inspect.signature(getattr(made, name)).parameters]
    assert 38 <= len(clauses) + (len(made.toys) - 1) * len(per_toy) <= 46
    assert "five tests" in GUIDE
    assert len([name for name in dir(ObserverContract) if name.startswith("test_")]) == 5
