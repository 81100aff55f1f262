"""Installed plugins: found in metadata, imported when named, and their hooks checked."""

import re
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
from pydantic import Field

import toolkit
from toolkit.errors import InputError, TechniqueError
from toolkit.hooks import loading as techniques
from toolkit.hooks.manual import manual, parameters


def entry_point(name, value, distribution, version="1.0"):
    point = EntryPoint(name, value, techniques.GROUP)
    dist = SimpleNamespace(name=distribution, version=version, metadata=SimpleNamespace(json={"summary": "Sums up."}))
    return point._for(dist)


@pytest.fixture
def install(monkeypatch):
    points = []
    monkeypatch.setattr(techniques, "entry_points", lambda group: points)
    techniques.load.cache_clear()
    yield lambda *arguments: points.append(entry_point(*arguments))
    techniques.load.cache_clear()


@pytest.mark.smoke
def test_the_built_in_plugins_are_installed_like_any_other():
    own = [p.name for p in techniques.installed() if p.distribution.startswith("torch-optimization-toolkit ")]
    assert own == [
        "aoti",
        "bias-correction",
        "channels",
        "codebook",
        "distillation",
        "low-rank",
        "mlflow",
        "onnxruntime",
        "openvino",
        "profile",
        "pruning",
        "pt2",
        "quantization",
        "rewind",
        "tensorboard",
    ]


def test_an_unknown_name_gets_a_close_one(install):
    install("sparsify", "nowhere", "one")
    with pytest.raises(InputError, match=r"no technique 'sparsfy' is installed; did you mean 'sparsify'\?"):
        techniques.load("sparsfy")


def test_two_distributions_with_one_name_are_both_named(install):
    install("sparsify", "nowhere", "one")
    install("sparsify", "nowhere", "two", "2.0")
    with pytest.raises(InputError, match=r"'sparsify' is provided by both one 1.0 and two 2.0; uninstall one of them"):
        techniques.load("sparsify")


def test_a_plugin_that_cannot_be_imported_is_named_and_breaks_no_other(install):
    install("broken", "no_such_module_at_all", "one")
    install("fine", "toolkit_pruning", "two")
    with pytest.raises(TechniqueError, match=r"'broken' \(one 1.0\) cannot be imported: ModuleNotFoundError"):
        techniques.load("broken")
    assert techniques.load("fine").implements("optimize")


@toolkit.hookimpl
def optimize(model):
    return model


@toolkit.hookimpl
def misspelt_optimise(model):
    return model


@toolkit.hookimpl
def wrong_argument(model, sparsity):
    return model


@toolkit.hookimpl
def keyword_only(*, model):
    return model


@toolkit.hookimpl
def with_default(model=None):
    return model


def unmarked(model):
    return model


@pytest.mark.parametrize(
    ("hooks", "sentence"),
    [
        ({}, "implements no hook; define at least one of finetune, finish, measure, optimize, prepare"),
        (
            {"optimise": misspelt_optimise},
            "marks 'optimise' as a hook, but no hook has that name; did you mean 'optimize'?",
        ),
        ({"optimize": unmarked}, "has a function optimize that is not marked as a hook; add @toolkit.hookimpl"),
        (
            {"optimize": wrong_argument},
            "optimize has no argument 'sparsity'; known: data, model, params, prepared",
        ),
        ({"optimize": keyword_only}, "the argument 'model' of optimize has a default or is keyword-only"),
        ({"optimize": with_default}, "the argument 'model' of optimize has a default or is keyword-only"),
        ({"optimize": optimize, "Params": dict}, "Params must be a class derived from toolkit.Params"),
        ({"optimize": optimize, "on_step": optimize}, "has the hook on_step; name it under [[plugins]]"),
    ],
)
def test_wrong_hooks_are_named_with_their_plugin(hooks, sentence):
    with pytest.raises(TechniqueError) as caught:
        techniques.from_module(SimpleNamespace(**hooks), "odd", "dist 1.0")
    assert str(caught.value).startswith("'odd' (dist 1.0)")
    assert sentence in str(caught.value)


def test_a_technique_is_no_run_wide_plugin():
    with pytest.raises(
        TechniqueError, match="has the hook optimize; name it as the technique of a stage, because it changes models"
    ):
        techniques.from_module(SimpleNamespace(optimize=optimize), "odd", "dist 1.0", "observer")


@pytest.mark.parametrize("name", ["distillation", "pruning", "quantization"])
@pytest.mark.smoke
def test_the_manual_shows_every_param_with_default_and_description(name):
    page = " ".join(manual(name).split())
    for param, field in techniques.load(name).params_class.model_fields.items():
        assert param in page
        assert (field.description or "nothing").split()[0] in page


def test_the_manual_shows_tables_in_params_and_defaults_as_toml_writes_them():
    page = manual("distillation")
    [table] = re.findall(r"^hints: each .*", page, flags=re.MULTILINE | re.DOTALL)
    assert re.search(r"^teacher +str +required", table, flags=re.MULTILINE)
    assert re.search(r"^loss +\"fitnets\", ", table, flags=re.MULTILINE)
    assert "list of float >" in page
    assert "table of str" in page
    assert re.search(r"^initialize +bool +false ", page, flags=re.MULTILINE)


def test_the_manual_shows_defaults_as_recipes_write_them():
    class Params(toolkit.Params):
        quick: bool = Field(default=False, description="a switch")
        sizes: list[Annotated[int, Field(ge=1)]] = Field(default=[], description="some")
        names: dict[str, Literal["a", "b"]] = Field(default={}, description="by name")

    lines = [line.split("  ") for line in parameters(Params).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines[2:]]
    assert cells == [
        ["quick", "bool", "false", "a switch"],
        ["sizes", "list of int ≥ 1", "[]", "some"],
        ["names", 'table of "a", "b"', "{}", "by name"],
    ]
