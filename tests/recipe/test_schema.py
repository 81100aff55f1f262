"""The schema by which editors check recipes: it takes what the toolkit takes, and refuses nothing else."""

import sys
import tomllib

import jsonschema
import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.errors import RecipeError
from toolkit.hooks.loading import load
from toolkit.recipe.read import read_recipe
from toolkit.recipe.schema import FILE, recipe_schema
from toolkit.recipe.shipped import shipped

RECIPES = shipped()
GOOD = """
[model]
source = "lenet5"
training = { epochs = 1 }
[data]
source = "mnist"
[[stages]]
technique = "pruning"
params = { sparsity = 0.5 }
with = [{ technique = "distillation", params = { temperature = 3.0 } }]
finetune = { epochs = 1 }
[[plugins]]
name = "profile"
"""
WRONG = [
    ("[model]", "[modle]"),
    ('source = "lenet5"', 'sauce = "lenet5"'),
    ('source = "lenet5"', "source = 5"),
    ("training = { epochs = 1 }", "training = { epochs = 0 }"),
    ("training = { epochs = 1 }", "training = { epochs = 1.5 }"),
    ("training = { epochs = 1 }", "training = { lr = 0 }"),
    ("training = { epochs = 1 }", 'training = { optimizer = "adam" }'),
    ("training = { epochs = 1 }", 'training = "long"'),
    ('source = "mnist"', 'source = "mnist"\nbatch_size = 0'),
    ('source = "mnist"', 'source = "mnist"\nbatch = 12'),
    ('source = "mnist"', 'source = "mnist"\nvalidation = -1'),
    ('technique = "pruning"', 'technique = "prunning"'),
    ('technique = "pruning"', 'technique = "profile"'),
    ('technique = "pruning"', 'name = "pruning"'),
    ("sparsity = 0.5", "sparsity = 1.5"),
    ("sparsity = 0.5", "sparsety = 0.5"),
    ("sparsity = 0.5", 'scope = "column"'),
    ("sparsity = 0.5", "temperature = 3.0"),
    ("temperature = 3.0", "temperature = 0"),
    ("temperature = 3.0", "student = { args = {} }"),
    ("temperature = 3.0", "teacher = 3"),
    ("finetune = { epochs = 1 }", "finetune = { momentum = 1.0 }"),
    ("[[stages]]", "[stages]"),
    ('name = "profile"', 'name = "pruning"'),
    ('name = "profile"', 'name = "profile"\nparams = { every = 1, nonsense = 2 }'),
    ("[model]", "seed = -1\n[model]"),
    ("[model]", 'device = "gpu"\n[model]'),
    ("[model]", "measure = { budget = 0 }\n[model]"),
]


@pytest.fixture(scope="module")
def validator():
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.smoke
def test_shipped_recipes_are_valid_and_name_the_schema(name, validator):
    text = RECIPES[name].read_text()
    place = "./" if "/" not in name else "../"
    assert text.startswith(f"#:schema {place}{FILE}\n# ")
    validator.validate(tomllib.loads(text))


def test_a_good_recipe_is_accepted_by_both(validator, tmp_path):
    validator.validate(tomllib.loads(GOOD))
    (tmp_path / "good.toml").write_text(GOOD)
    read_recipe(tmp_path / "good.toml")


@pytest.mark.parametrize(("right", "wrong"), WRONG)
def test_a_wrong_recipe_is_refused_by_both(right, wrong, validator, tmp_path):
    text = GOOD.replace(right, wrong, 1)
    assert text != GOOD
    assert not validator.is_valid(tomllib.loads(text))
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(RecipeError):
        read_recipe(tmp_path / "wrong.toml")


def test_the_schema_beside_the_shipped_recipes_is_current():
    printed = CliRunner().invoke(main, ["schema", "--shipped"]).stdout
    beside = next(iter(RECIPES.values())).with_name(FILE).read_text(encoding="utf-8")
    assert beside == printed, f"write it anew: toolkit schema --shipped > recipes/{FILE}"


def test_every_setting_is_described():
    definitions = recipe_schema()["$defs"]
    for params in (table for name, table in definitions.items() if name.endswith("Params")):
        assert all("description" in setting for setting in params["properties"].values())
    described = {choice["const"]: choice["description"] for choice in _techniques(definitions)}
    assert described["pruning"].startswith("Pruning: ")


def test_a_plugin_that_is_broken_or_strange_leaves_the_rest_as_it_is(make_plugin):
    make_plugin("broken", "import nothing_of_that_name")
    make_plugin(
        "strange",
        "import toolkit, torch\nfrom pydantic import Field\n"
        "class Params(toolkit.Params):\n    'Has a dtype.'\n"
        "    dtype: torch.dtype = Field(default=torch.float32, description='a dtype')\n"
        "@toolkit.hookimpl\ndef optimize(model): return model\n",
    )
    choices = {choice["const"]: choice["description"] for choice in _techniques(recipe_schema()["$defs"])}
    assert "No module named 'nothing_of_that_name'" in choices["broken"]
    good = jsonschema.Draft202012Validator(recipe_schema())
    good.validate(tomllib.loads(GOOD.replace("sparsity = 0.5", "").replace('"pruning"', '"broken"')))
    good.validate(tomllib.loads(GOOD.replace("sparsity = 0.5", 'dtype = "x"').replace('"pruning"', '"strange"')))
    assert not good.is_valid(tomllib.loads(GOOD.replace("sparsity = 0.5", "x = 1").replace('"pruning"', '"strange"')))


OBSERVER = "import nothing_of_that_name, toolkit\n@toolkit.hookimpl\ndef on_row(row): pass\n"
TECHNIQUE = "import nothing_of_that_name, toolkit\n@toolkit.hookimpl\ndef optimize(model): return model\n"
METRIC = "import nothing_of_that_name, toolkit\n@toolkit.hookimpl\ndef measure(model): return {}\n"


def test_a_plugin_is_offered_as_what_it_is_whether_it_can_be_imported_or_not(make_plugin):
    make_plugin("broken_observer", OBSERVER)
    make_plugin("broken_technique", TECHNIQUE)
    make_plugin("broken_metric", METRIC)  # it may be either
    make_plugin("observer", OBSERVER.replace("nothing_of_that_name, ", ""))
    definitions = recipe_schema()["$defs"]
    techniques = {choice["const"] for choice in _techniques(definitions)}
    observers = {choice["const"] for choice in definitions["PluginTable"]["properties"]["name"]["oneOf"]}
    made = {"broken_observer", "broken_technique", "broken_metric", "observer"}
    assert techniques & made == {"broken_technique", "broken_metric"}
    assert observers & made == {"broken_observer", "broken_metric", "observer"}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_shipped_observer_without_its_extra_is_no_technique(name, monkeypatch):
    package = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow"}[name]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"toolkit_{name}", raising=False)
    load.cache_clear()
    definitions = recipe_schema()["$defs"]
    load.cache_clear()
    [choice] = [c for c in definitions["PluginTable"]["properties"]["name"]["oneOf"] if c["const"] == name]
    assert f"pip install 'torch-optimization-toolkit[{name}]'" in choice["description"]
    assert name not in {choice["const"] for choice in _techniques(definitions)}


def _techniques(definitions):
    return definitions["StageTable"]["properties"]["technique"]["oneOf"]
