"""What is public: written down in `__all__`, explained, enough for every plugin, and kept compatible."""

import ast
import hashlib
import importlib
import inspect
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pluggy
import pytest
from few_toys import FewToys

import toolkit
from toolkit.errors import TechniqueError
from toolkit.hooks import loading as techniques
from toolkit.hooks.specs import ObserverHooks, TechniqueHooks, hookspec
from toolkit.testing import TechniqueContract
from toolkit.testing.distributions import write_distribution

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "tests" / "frozen"
PLUGINS = sorted(
    [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "tests/third_party").rglob("*.py"), *FROZEN.glob("toolkit_*.py")]
)
MODULES = (
    *(
        "toolkit",
        "toolkit.attention",
        "toolkit.criteria",
        "toolkit.cutting",
        "toolkit.masks",
        "toolkit.operators",
        "toolkit.patterns",
        "toolkit.rounding",
    ),
    *(
        "toolkit.scoring",
        "toolkit.structure",
        "toolkit.testing",
        "toolkit.timing",
        "toolkit.tracing",
        "toolkit.training",
    ),
)
# Of 2026-11: an edit of a frozen file is no longer a test of compatibility. Write another one beside it.
CHECKSUMS = {
    "toolkit_frozen.py": "5e565a60a0e3b8d9",
    "toolkit_frozen_observer.py": "a04cd4b278ccefdb",
}


def public(module):
    """The public names of a public module."""
    return set(importlib.import_module(module).__all__)


def uses(source):
    """Everything of the toolkit that a module uses, as (module, name)."""
    tree = ast.parse(source)
    imported = {
        f"toolkit.{alias.name}": alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "toolkit"
        for alias in node.names
    }
    known = {module: module for module in MODULES} | {name: module for module, name in imported.items()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (("import", alias.name) for alias in node.names if alias.name.split(".")[0] == "toolkit")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "toolkit":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            module = known.get(ast.unparse(node.value))
            if module in MODULES:
                yield module, node.attr


def not_public(source):
    return [
        (module, name)
        for module, name in uses(source)
        if (name not in MODULES if module == "import" else module not in MODULES or name not in public(module))
    ]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_use_only_what_is_public(path):
    assert not_public(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from toolkit.runner import run",
        "import toolkit.runner",
        "import toolkit\ntoolkit.runner.run",
        "from toolkit import runner",
        "from toolkit.masks import _mask_of",
        "from toolkit import masks\nmasks._mask_of",
        "import toolkit\ntoolkit.masks._mask_of",
        "from toolkit.errors import did_you_mean",
    ],
)
def test_what_is_not_public_is_found(source):
    assert not_public(source)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.smoke
def test_every_public_name_exists_and_is_explained(module):
    found = importlib.import_module(module)
    for name in public(module):
        value = getattr(found, name)
        assert isinstance(value, dict) or inspect.getdoc(value), f"{module}.{name}"


def test_the_public_names_of_the_package():
    """To be extended here and in the guide; a name that goes is deprecated for a minor version first."""
    assert set(toolkit.__all__) == {
        *("Batch", "Data", "Note", "Number", "Params", "Plot", "Recipe", "RecipeError", "Report", "Row"),
        *("Source", "Stage"),
        "Task",
        *("Classification", "MultiLabel", "Pooled", "Regression", "TokenClassification"),
        *("TechniqueError", "ToolkitError", "TrainedAlong", "Training", "hookimpl", "layers", "load", "masks"),
        "replace_layers",
        *("attention", "criteria", "cutting", "operators", "patterns", "reestimate", "rounding", "run"),
        *("scoring", "stored_as", "structure", "testing", "timing", "tracing", "training"),
    }


def test_pytest_starts_without_torch(tmp_path):
    (tmp_path / "test_nothing.py").write_text("import sys\ndef test(): assert 'torch' not in sys.modules\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_nothing.py", "--fixtures"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "recipe_run" in listed.stdout
    done = subprocess.run(command[:-1], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_toolkit_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; import toolkit.testing as t; [getattr(t, n) for n in t.__all__]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class TestFrozen(FewToys, TechniqueContract):
    technique = "frozen"
    params: ClassVar[dict[str, Any]] = {"sparsity": 0.3}

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path, monkeypatch):
        install_frozen(tmp_path, monkeypatch)
        yield
        techniques.load.cache_clear()

    def test_a_recipe_with_both_runs(self, recipe_run):
        text = (
            '[[stages]]\ntechnique = "frozen"\nparams = { helper = { source = "toolkit.testing:toy_mlp" } }\n'
            'finetune = { epochs = 1 }\n[[stages]]\ntechnique = "quantization"\n[[plugins]]\nname = "frozen-observer"'
        )
        outcome = recipe_run(text)
        assert outcome.error == ""
        assert outcome.rows[1]["frozen.steps"] == 4
        told = (outcome.directory / "told.txt").read_text().splitlines()
        assert told[0] == "start recipe 0 2 run"
        assert "trained frozen in 4 steps, True, True" in told
        assert told[-1] == "end quantization"

    @pytest.mark.parametrize("name", CHECKSUMS)
    def test_it_is_what_it_was(self, name):
        assert hashlib.sha256((FROZEN / name).read_bytes()).hexdigest()[:16] == CHECKSUMS[name]

    @pytest.mark.parametrize(
        ("specification", "name"), [(TechniqueHooks, "toolkit_frozen"), (ObserverHooks, "toolkit_frozen_observer")]
    )
    def test_every_hook_of_version_0_1_is_still_there(self, specification, name):
        frozen = ast.parse((FROZEN / f"{name}.py").read_text())
        hooks = [node for node in frozen.body if isinstance(node, ast.FunctionDef) and node.decorator_list]
        for hook in hooks:
            now = inspect.signature(getattr(specification, hook.name)).parameters
            assert {argument.arg for argument in hook.args.args} <= set(now), hook.name


def install_frozen(tmp_path, monkeypatch):
    folder = tmp_path / "frozen-metadata"
    points = {"frozen": "toolkit_frozen", "frozen-observer": "toolkit_frozen_observer"}
    write_distribution(folder, "toolkit-frozen", points, "0.1")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(FROZEN)
    techniques.load.cache_clear()


class WithAnArgumentMore(TechniqueHooks):
    @hookspec(firstresult=True)
    def optimize(self, model, params, data, prepared, budget):
        """As before, with something new."""


class WithAnArgumentThatWillGo(TechniqueHooks):
    @hookspec(
        firstresult=True,
        warn_on_impl_args={"data": FutureWarning("the argument 'data' of optimize goes in 0.3: keep it in prepare")},
    )
    def optimize(self, model, params, data, prepared):
        """As before, with something that is to go."""


class WithAnArgumentLess(TechniqueHooks):
    @hookspec(firstresult=True)
    def optimize(self, model, params, prepared):
        """As it will be."""


@toolkit.hookimpl
def takes_data(model, data):
    return model


@toolkit.hookimpl
def takes_none(model):
    return model


def made(function):
    return techniques.from_module(SimpleNamespace(optimize=function), "old", "dist 1.0")


def specify(monkeypatch, specification):
    # A hook specification is found in a class's own attributes.
    complete = type("Hooks", (), {**vars(TechniqueHooks), "optimize": vars(specification)["optimize"]})
    monkeypatch.setitem(techniques.SPECIFICATIONS, "technique", complete)


def test_an_argument_more_breaks_nobody(monkeypatch):
    specify(monkeypatch, WithAnArgumentMore)
    called = made(takes_data).call("optimize", model=1, params=2, data=3, prepared=4, budget=5)
    assert called == 1


def test_an_argument_that_will_go_warns_whoever_takes_it_and_is_still_passed(monkeypatch):
    specify(monkeypatch, WithAnArgumentThatWillGo)
    with pytest.warns(FutureWarning, match=r"'old' \(dist 1.0\): the argument 'data' of optimize goes in 0.3: keep it"):
        technique = made(takes_data)
    assert technique.call("optimize", model=1, params=2, data=3, prepared=4) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(takes_none)


def test_an_argument_that_is_gone_is_named(monkeypatch):
    specify(monkeypatch, WithAnArgumentLess)
    with pytest.raises(TechniqueError, match="optimize has no argument 'data'"):
        made(takes_data)
    assert made(takes_none).call("optimize", model=1, params=2, prepared=3) == 1


def test_pluggy_is_new_enough_to_warn():
    assert tuple(map(int, pluggy.__version__.split(".")[:2])) >= (1, 5)
