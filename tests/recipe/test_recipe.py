"""A recipe: what it means when it is right, and where and in which words every mistake in it is named."""

import os
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from pydantic import Field, field_validator

import toolkit
from toolkit.data.coerce import FORMS
from toolkit.errors import InputError, RecipeError
from toolkit.hooks import loading as techniques
from toolkit.recipe.overrides import parse_settings
from toolkit.recipe.read import parse_recipe, read_recipe
from toolkit.recipe.resolved import resolved_recipe
from toolkit.runner.assembly import assemble
from toolkit.testing import toy_cnn, toy_mlp

RECIPE = """\
seed = 3

[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 1, lr = 1e-3 }

[data]
source = "toolkit.testing:toy_data"
batch_size = 64

[[stages]]
technique = "pruning"
params = { sparsity = 0.8 }
finetune = { epochs = 2 }

[[stages]]
name = "int8"
technique = "quantization"

[measure]
budget = 0.2
"""
TWICE = "is defined twice, again in line {}; remove one of the two"
HEAD = RECIPE.partition("[[stages]]")[0]
LEARN = 'with = [{ technique = "distillation", params = { alpha = 0.5 } }]\nfinetune = { epochs = 2 }'


def edited(old, new):
    assert RECIPE.count(old) == 1, old
    return RECIPE.replace(old, new)


def read(text, directory=None, overrides=None):
    return parse_recipe(text, "toy.toml", directory or Path(), "toy", overrides)


def problems(text, directory=None, overrides=None, check=read):
    """Every mistake as `(place, sentence)`; each is one line that begins with the recipe."""
    with pytest.raises(RecipeError) as caught:
        check(text, directory, overrides)
    found = [(problem.place, problem.message) for problem in caught.value.problems]
    lines = str(caught.value).splitlines()
    assert lines == [f"toy.toml: {place}: {message}" if place else f"toy.toml: {message}" for place, message in found]
    return found


def assembled(text, directory, overrides=None):
    return assemble(read(text, directory, overrides))


@pytest.fixture
def install(monkeypatch):
    """Makes an object with hooks a technique that recipes can name."""
    real, made = techniques.load, {}
    monkeypatch.setattr(
        techniques, "load", lambda name, role="technique": made[name] if name in made else real(name, role)
    )

    def install(name, params):
        hooks = SimpleNamespace(optimize=toolkit.hookimpl(lambda model: model), Params=params)
        made[name] = techniques.from_module(hooks, name, "tests 1.0")

    return install


class TestMeaning:
    @pytest.mark.smoke
    def test_stages_are_counted_from_one_and_start_from_the_row_before(self):
        recipe = read(RECIPE)
        assert (recipe.name, recipe.seed, recipe.measure.budget) == ("toy", 3, 0.2)
        assert (recipe.baseline.number, recipe.baseline.name) == (0, "baseline")
        assert recipe.baseline.finetune == recipe.model.training
        first, second = recipe.stages
        assert (first.number, first.name, first.start) == (1, "pruning", 0)
        assert (second.number, second.name, second.start) == (2, "int8", 1)
        assert first.uses[0].params.sparsity == 0.8
        assert first.finetune is not None
        assert first.finetune.epochs == 2
        assert second.finetune is None

    def test_with_adds_steps_in_the_order_written(self):
        stage = read(edited("finetune = { epochs = 2 }", LEARN)).stages[0]
        assert [use.plugin.name for use in stage.uses] == ["pruning", "distillation"]

    def test_from_names_a_row(self):
        text = RECIPE + '[[stages]]\nname = "a"\nfrom = "baseline"\ntechnique = "pruning"\n'
        text += '[[stages]]\nfrom = "int8"\ntechnique = "pruning"\n'
        assert [stage.start for stage in read(text).stages] == [0, 1, 0, 2]

    def test_the_name_is_the_files_unless_given(self, tmp_path):
        path = tmp_path / "my run.toml"
        path.write_text(RECIPE)
        assert read_recipe(path).name == "my run"
        path.write_text('name = "other"\n' + RECIPE)
        assert read_recipe(str(path)).name == "other"

    def test_a_shipped_recipe_is_found_by_name(self):
        assert read_recipe("mnist").name == "mnist"

    def test_whole_numbers_may_stand_for_fractions(self):
        training = read(edited("lr = 1e-3", "lr = 1")).model.training
        assert training is not None
        assert isinstance(training.lr, float)

    @pytest.mark.parametrize("name", ["a", "90 percent", "v1.2+x-y_z", "größer", "x" * 80])
    def test_names_may_be_words(self, name):
        assert read(edited("int8", name)).stages[1].name == name

    def test_nothing_in_it_can_be_changed(self):
        recipe = read(RECIPE)
        with pytest.raises(AttributeError):
            recipe.origin = "x"
        with pytest.raises(ValueError, match="frozen"):
            recipe.table.seed = 1


class TestFile:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_text_is_utf8_with_or_without_a_mark(self, tmp_path, encoding):
        path = tmp_path / "toy.toml"
        path.write_text(edited("int8", "größer"), encoding=encoding)
        assert read_recipe(path).stages[1].name == "größer"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"seed = 1 # \xff\n", "invalid start byte at byte 12"), (RECIPE.encode("utf-16"), "invalid start byte")],
    )
    def test_other_encodings_are_refused(self, tmp_path, content, reason):
        path = tmp_path / "toy.toml"
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"toy.toml is not valid UTF-8: {reason}"):
            read_recipe(path)

    def test_a_directory_is_no_recipe(self, tmp_path):
        with pytest.raises(InputError, match=r"'.*' is a directory; pass a recipe file$"):
            read_recipe(tmp_path)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("minst", "did you mean 'mnist'?"),
            ("nowhere/prunning.toml", "did you mean 'pruning'?"),
            ("lenet-5-1.5k", "did you mean 'records/lenet-5-1.5kb'?"),
            ("a" * 5000, "known"),
        ],
    )
    def test_an_unknown_recipe_gets_a_close_name(self, name, hint):
        with pytest.raises(InputError) as caught:
            read_recipe(name)
        assert f"recipe '{name}' does not exist, neither as a file nor as a shipped recipe; {hint}" in str(caught.value)

    @pytest.mark.parametrize("name", ["own", "own2.toml", "mnist2"])
    def test_a_recipe_file_beside_is_suggested(self, name, tmp_path):
        (tmp_path / "own.toml").touch()
        meant = "mnist" if name == "mnist2" else tmp_path / "own.toml"
        with pytest.raises(InputError, match=re.escape(f"; did you mean '{meant}'?")):
            read_recipe(tmp_path / name)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("[model\n", "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
            ("seed = 1\nname = = 2\n", "is not TOML: Invalid value (at line 2, column 8)"),
            ("seed = 1\nname = ", "is not TOML: 'name' has no value in line 2; write one, or remove the line"),
            ("seed = [1,\n2,\n", "is not TOML: Invalid value (at the end: line 3, column 1)"),
            ("seed = # later\n", "is not TOML: 'seed' has no value in line 1; write one, or remove the line"),
            (
                "seed = yes\n",
                "is not TOML: Invalid value (at line 1, column 8); "
                "put text in quotes, and write truth values as true or false",
            ),
            (
                "x = { a = 0,5 }\n",
                "is not TOML: Expected '=' after a key in a key/value pair (at line 1, column 15); "
                "write decimals with a point, such as 0.5",
            ),
            ("", "is empty; add [model], [data] and at least one [[stages]]"),
            ("# nothing yet\n\n", "is empty; add [model], [data] and at least one [[stages]]"),
            ("x = " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
            ("x = " + "{a = " * 3000 + "1" + "}" * 3000, "is nested too deeply"),
            ("x" + ".a" * 5000 + " = 1", "is nested too deeply"),
            (edited("[data]", "args.hidden" + ".a" * 150 + " = 1\n[data]"), "is nested too deeply"),
        ],
        ids=range(13),
    )
    @pytest.mark.smoke
    def test_what_is_no_recipe_at_all(self, text, sentence):
        assert problems(text) == [("", sentence)]

    @pytest.mark.parametrize(
        ("text", "place", "sentence"),
        [
            ("seed = 1\nseed = 2\n", "seed", TWICE.format(2)),
            ("seed = 1\nseed = 2", "seed", TWICE.format(2)),
            ("[data]\n\n[data] # again\n", "data", TWICE.format(3)),
            ("[model]\nx = 1\nsource = 'a'\nsource = 'b'\n", "model.source", TWICE.format(4)),
            ("[model]\nx = 1\n'x' = [\n1,\n2,\n]\n", "model.x", TWICE.format(6)),
            ("[[stages]]\n[[stages]]\nname = 'a'\nparams.x = 1\nparams.x = 2\n", "stages.2.params.x", TWICE.format(5)),
            ("[[stages]]\n[stages.params]\n[stages.params]\n", "stages.params", TWICE.format(3)),
            ("[model.args]\n[data]\nx = 1\n[model.args]\n", "model.args", TWICE.format(4)),
            ('"a=b" = 1\n"a=b" = 2', '"a=b"', TWICE.format(2)),
            ("a = { b = 1, b = 2 }", "a", "has a key that is defined twice (line 1); remove one of the two"),
            (
                "model = 1\nmodel.source = 2",
                "model.source",
                "cannot be added in line 2: an earlier line defines 'model'",
            ),
            ("a = { b = 1 }\n[a.c]\n", "a.c", "cannot be added in line 2: an earlier line defines 'a'"),
        ],
    )
    def test_a_key_that_is_defined_twice_is_named(self, text, place, sentence):
        assert problems(text) == [(place, sentence)]

    @pytest.mark.parametrize("sign", ["", "-", "+"])
    def test_an_integer_of_thousands_of_digits_is_found_by_its_key(self, sign):
        [(place, sentence)] = problems(edited("lr = 1e-3", f"lr = {sign}{'1_1' * 2500}"))
        assert place == "model.training.lr"
        assert sentence == "must be a valid number, found an integer of thousands of digits"
        found = problems(edited("seed = 3", f"sed = 1\nseed = {sign}{'1' * 5000}"))
        assert [place for place, _ in found] == ["seed", "sed"]
        assert all("digits" in sentence for place, sentence in found if place == "seed")

    def test_missing_tables_are_all_named(self):
        assert problems("seed = 1") == [(table, "is missing") for table in ("model", "data", "stages")]


UNKNOWN_KEYS = [
    ("seed = 3", "sed = 3", "sed", "is not a known key; did you mean 'seed'?"),
    ("[data]", "[dat]", "dat", "is not a known key; did you mean 'data'?"),
    (
        'source = "toolkit.testing:toy_mlp',
        'sorce = "toolkit.testing:toy_mlp',
        "model.sorce",
        "is not a known key; did you mean 'source'?",
    ),
    ("[measure]", "[mesure]", "mesure", "is not a known key; did you mean 'measure'?"),
    ("training =", "trainig =", "model.trainig", "is not a known key; did you mean 'training'?"),
    ("epochs = 1", "epoch = 1", "model.training.epoch", "is not a known key; did you mean 'epochs'?"),
    (
        "batch_size",
        "zzz",
        "data.zzz",
        "is not a known key; known: args, augment, augment_args, batch_size, metrics, source, task, test_args, "
        "train_args, train_transform, transform, validation",
    ),
    ("params", "parms", "stages.1.parms", "is not a known key; did you mean 'params'?"),
    (
        "params",
        "seed = 1\nparams",
        "stages.1.seed",
        "is not a known key; did you mean 'seed' of the top level, before the first table?",
    ),
    ("sparsity", "sparsty", "stages.1.params.sparsty", "is not a known key; did you mean 'sparsity'?"),
    ("epochs = 2", "epocs = 2", "stages.1.finetune.epocs", "is not a known key; did you mean 'epochs'?"),
    (
        "finetune = { epochs = 2 }",
        LEARN.replace("alpha", "alhpa"),
        "stages.1.with.1.params.alhpa",
        "is not a known key; did you mean 'alpha'?",
    ),
    (
        "finetune = { epochs = 2 }",
        LEARN.replace("alpha = 0.5", 'teacher = { source = "toolkit.testing:toy_mlp", weight = 1 }'),
        "stages.1.with.1.params.teacher.weight",
        "is not a known key; did you mean 'weights'?",
    ),
    (
        "finetune = { epochs = 2 }",
        'with = [{ technique = "pruning", finetune = {} }]',
        "stages.1.with.1.finetune",
        "is not a known key; known: params, technique",
    ),
]
WRONG_TYPES = [
    ("seed = 3", 'seed = "3"', "seed", 'must be a valid integer, found "3"'),
    ("seed = 3", "seed = true", "seed", "must be a valid integer, found true"),
    ("seed = 3", "seed = 3.0", "seed", "must be a valid integer, found 3.0"),
    ("lr = 1e-3", 'lr = "1e-3"', "model.training.lr", 'must be a valid number, found "1e-3"'),
    ("lr = 1e-3", "lr = false", "model.training.lr", "must be a valid number, found false"),
    ("lr = 1e-3", f"lr = 1{'0' * 400}", "model.training.lr", f"must be a valid number, found 1{'0' * 56}…"),
    ("epochs = 1", "epochs = 2020-01-01", "model.training.epochs", 'must be a valid integer, found "2020-01-01"'),
    ("batch_size = 64", "batch_size = [64]", "data.batch_size", "must be a valid integer, found [64]"),
    ("= 0.8", '= "0.5"', "stages.1.params.sparsity", 'must be a valid number, found "0.5"'),
    ('"int8"', "8", "stages.2.name", "must be a valid string, found 8"),
    ('"int8"', '"int8"\nfrom = 1', "stages.2.from", "must be a valid string, found 1"),
    ("[measure]", "[[measure]]", "measure", 'must be a table, found [{"budget": 0.2}]'),
    ("{ epochs = 1, lr = 1e-3 }", "1", "model.training", "must be a table, found 1"),
    ("{ sparsity = 0.8 }", '"0.8"', "stages.1.params", 'must be a table, found "0.8"'),
    ("{ sparsity = 0.8 }", "[0.8]", "stages.1.params", "must be a table, found [0.8]"),
    ("{ sparsity = 0.8 }", '{ layers = "*" }', "stages.1.params.layers", 'must be a list, found "*"'),
    ("{ sparsity = 0.8 }", '{ layers = ["*", 1] }', "stages.1.params.layers.2", "must be a valid string, found 1"),
    (
        "finetune = { epochs = 2 }",
        LEARN.replace("alpha = 0.5", 'student = "lenet5"'),
        "stages.1.with.1.params.student",
        'must be a table, found "lenet5"',
    ),
]
OUT_OF_RANGE = [
    ("seed = 3", "seed = -1", "seed", "must be greater than or equal to 0, found -1"),
    (
        "seed = 3",
        f"seed = 0x{'f' * 5000}",
        "seed",
        "must be less than 9223372036854775808, found an integer of thousands of digits",
    ),
    ("seed = 3", "threads = 0", "threads", "must be greater than or equal to 1, found 0"),
    ("seed = 3", "threads = 100_000", "threads", "must be less than or equal to 1024, found 100000"),
    ("seed = 3", 'device = "gpu"', "device", """must be 'auto', 'cpu', 'cuda' or 'mps', found "gpu\""""),
    ("epochs = 1", "epochs = 0", "model.training.epochs", "must be greater than or equal to 1, found 0"),
    ("lr = 1e-3", "lr = 0", "model.training.lr", "must be greater than 0, found 0"),
    ("lr = 1e-3", "lr = nan", "model.training.lr", "must be a finite number, found nan"),
    ("lr = 1e-3", "lr = -inf", "model.training.lr", "must be a finite number, found -inf"),
    (
        "lr = 1e-3",
        'precision = "fp16"',
        "model.training.precision",
        """must be 'float32', 'bfloat16' or 'auto', found "fp16\"""",
    ),
    ("batch_size = 64", "validation = -1", "data.validation", "must be greater than or equal to 0, found -1"),
    ("= 0.8", "= 1.0", "stages.1.params.sparsity", "must be less than 1, found 1.0"),
    ("= 0.8", "= nan", "stages.1.params.sparsity", "must be a finite number, found nan"),
    ("budget = 0.2", "budget = inf", "measure.budget", "must be a finite number, found inf"),
    ("budget = 0.2", "batch_sizes = []", "measure.batch_sizes", "must have at least 1 entry, found []"),
    (
        "budget = 0.2",
        "batch_sizes = [1, 0]",
        "measure.batch_sizes.2",
        "must be greater than or equal to 1, found 0",
    ),
    (
        "finetune = { epochs = 2 }",
        LEARN.replace("alpha = 0.5", 'teacher = "inptu"'),
        "stages.1.with.1.params.teacher",
        """must be 'input' or 'reference', found "inptu\"""",
    ),
]
UNKNOWN_NAMES = [
    (
        '"pruning"',
        '"prunning"',
        "stages.1.technique",
        "no technique 'prunning' is installed; did you mean 'pruning'?",
    ),
    (
        "finetune = { epochs = 2 }",
        LEARN.replace('"distillation"', '"distil"'),
        "stages.1.with.1.technique",
        "no technique 'distil' is installed; did you mean 'distillation'?",
    ),
    (
        "toolkit.testing:toy_mlp",
        "lenet",
        "model.source",
        "unknown model 'lenet'; did you mean 'lenet5'?",
    ),
    (
        "toolkit.testing:toy_data",
        "minst",
        "data.source",
        "unknown data 'minst'; did you mean 'mnist'?",
    ),
    (
        "testing:toy_mlp",
        "testing:toy_mpl",
        "model.source",
        "'toolkit.testing' has no 'toy_mpl'; did you mean 'toy_mlp'?",
    ),
    (
        "toolkit.testing:toy_mlp",
        "no_such_package.nets:Net",
        "model.source",
        "cannot import 'no_such_package.nets': ModuleNotFoundError: No module named 'no_such_package'",
    ),
    (
        "toolkit.testing:toy_mlp",
        "toolkit.testing:__doc__",
        "model.source",
        "'toolkit.testing:__doc__' must be callable, found str",
    ),
]
OTHER_VALUES = [
    (
        "[data]",
        "args = { hiden = 8 }\n[data]",
        "model.args",
        "unknown argument 'hiden'; did you mean 'hidden'?",
    ),
    ("toolkit.testing:toy_mlp", "mlp", "model.args", "missing a required argument: 'hidden'"),
    (
        '"int8"',
        '"baseline"',
        "stages.2.name",
        "'baseline' is the name of row 0; choose a different name",
    ),
    ('technique = "pruning"', "", "stages.1.technique", "is missing"),
]


@pytest.mark.parametrize(
    ("old", "new", "place", "sentence"),
    [*UNKNOWN_KEYS, *WRONG_TYPES, *OUT_OF_RANGE, *UNKNOWN_NAMES, *OTHER_VALUES],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_one_mistake_is_one_sentence_at_its_place(old, new, place, sentence):
    [(found, said)] = problems(edited(old, new))
    assert (found, said) == (place, sentence)


@pytest.mark.parametrize(
    ("name", "sentence"), [("tensorbord", "is installed"), ("pruning", "the technique of a stage")]
)
def test_a_run_wide_plugin_must_be_one(name, sentence):
    [(place, said)] = problems(f'{RECIPE}[[plugins]]\nname = "{name}"')
    assert place == "plugins.1.name"
    assert f"'{name}'" in said
    assert sentence in said


@pytest.mark.parametrize(
    ("name", "place"),
    [(name, place) for name in ("../x", "a/b", "a\\\\b", ".", "..", ".x", "", "a\\nb", "/x", "x" * 81, " a", "-x")
     for place in ("name", "stages.2.name")],
)  # fmt: skip
def test_names_cannot_leave_the_run_directory(name, place):
    text = f'name = "{name}"\n{RECIPE}' if place == "name" else edited("int8", name)
    [(found, sentence)] = problems(text)
    assert found == place
    assert "must be up to 80 letters, digits, spaces and _ . + -" in sentence


@pytest.mark.parametrize("name", ["aux", "NUL", "com1.v2", "a.", "a "])
def test_names_that_windows_reserves_are_refused_there(name, monkeypatch):
    text = f'name = "{name}"\n{RECIPE}'
    assert parse_recipe(text, "r.toml", Path()).name == name
    monkeypatch.setattr(sys, "platform", "win32")
    assert problems(text) == [("name", f"cannot name a folder on Windows, found {name!r}; choose a different name")]
    assert parse_recipe(f'name = "aux 2.1"\n{RECIPE}', "r.toml", Path()).name == "aux 2.1"


@pytest.mark.parametrize(
    ("table", "place"),
    [("trainning", "model.training"), ("training", "model.training"), ("finetune", "stages.1.finetune")],
)
def test_a_table_at_the_wrong_level_is_told_its_place(table, place):
    text = RECIPE + f"\n[{table}]\nepochs = 3\n"
    assert (table, f"is not a known key; did you mean '{place}'?") in problems(text)


def test_a_key_that_is_none_anywhere_gets_a_list():
    [(_, sentence)] = problems(f"xyzzy = 3\n{RECIPE}")
    assert sentence.startswith("is not a known key; known: data, device, exports, ")


def test_all_mistakes_are_found_at_once():
    text = """
    sed = 3
    threads = 0
    [model]
    source = "lenet"
    training = { epochs = true, lr = "1e-3" }
    [data]
    source = "toolkit.testing:toy_data"
    args = { sampels = 256 }
    [[stages]]
    technique = "prunning"
    params = { sparsity = 2 }
    [[stages]]
    technique = "pruning"
    params = { sparsity = 2, sparsty = 1 }
    with = [{ technique = "distillation", params = { alpha = nan, student = { source = "x" } } }]
    [[stages]]
    name = "a/b"
    from = "basline"
    technique = "quantization"
    [[stages]]
    technique = "quantization"
    finetune = { epochs = 1 }
    [measure]
    budget = 0
    """
    found = problems(text, overrides={"stages.9.params.sparsity": 0.5})
    places = [place for place, _ in found]
    assert sorted(places) == sorted(
        [
            "sed",
            "threads",
            "model.source",
            "model.training.epochs",
            "model.training.lr",
            "data.args",
            "stages.1.technique",
            "stages.2.params.sparsity",
            "stages.2.params.sparsty",
            "stages.2.with.1.params.alpha",
            "stages.2.with.1.params.student.source",
            "stages.3.name",
            "stages.3.from",
            "stages.4.finetune",
            "stages.9.params.sparsity",
            "measure.budget",
        ]
    )


class TestStages:
    @pytest.mark.parametrize(
        ("stages", "sentence"),
        [
            ("stages = []", "must have at least 1 entry, found []"),
            ('[stages]\ntechnique = "pruning"', 'must be a list, found {"technique": "pruning"}'),
            ("stages = 1", "must be a list, found 1"),
        ],
    )
    def test_there_must_be_a_list_of_them(self, stages, sentence):
        assert problems(stages + "\n" + HEAD if "=" in stages[:9] else HEAD + stages) == [("stages", sentence)]

    def test_entries_must_be_tables_with_a_technique(self):
        found = problems("stages = [1, {}]\n" + HEAD)
        assert found == [("stages.1", "must be a table, found 1"), ("stages.2.technique", "is missing")]

    @pytest.mark.parametrize(
        ("start", "sentence"),
        [
            ("basline", "must name an earlier stage, found 'basline'; did you mean 'baseline'?"),
            ("later", "must name an earlier stage, found 'later'; known: baseline, first, pruning"),
            ("itself", "must name an earlier stage, found 'itself'; known: baseline, first, pruning"),
            ("pruning", "must name one earlier stage, found several named 'pruning'; set a different `name` for each"),
        ],
    )
    def test_from_names_one_earlier_stage(self, start, sentence):
        names = ('name = "first"', "", "", 'name = "itself"', 'name = "later"')
        stages = [f'[[stages]]\n{name}\ntechnique = "pruning"\n' for name in names]
        stages[3] += f'from = "{start}"\n'
        assert problems(HEAD + "".join(stages)) == [("stages.4.from", sentence)]

    def test_a_name_that_is_written_twice_is_refused_with_both_places(self):
        names = ("twin", "other", "twin")
        stages = [f'[[stages]]\nname = "{name}"\ntechnique = "pruning"\n' for name in names]
        sentence = "must differ from stages.1.name, found 'twin' in both; choose a different name"
        assert problems(HEAD + "".join(stages)) == [("stages.3.name", sentence)]

    def test_a_technique_that_is_used_twice_needs_no_names(self):
        recipe = read(HEAD + '[[stages]]\ntechnique = "pruning"\n' * 2)
        assert [stage.name for stage in recipe.stages] == ["pruning", "pruning"]

    @pytest.mark.parametrize(
        ("stage", "sentence"),
        [
            (
                'technique = "pruning"\nfinetune = {}',
                "cannot train the model after quantization; train before it, or remove `finetune`",
            ),
            (
                'technique = "quantization"\nfinetune = { epochs = 1 }',
                "cannot train the model after quantization; train before it, or remove `finetune`",
            ),
            (
                'technique = "pruning"\nparams = { schedule = "gradual" }',
                "is missing: pruning with these params needs training, "
                "but the model cannot be trained after quantization",
            ),
        ],
    )
    def test_nothing_is_trained_after_quantization(self, stage, sentence):
        assert problems(f"{RECIPE}[[stages]]\n{stage}\n") == [("stages.3.finetune", sentence)]

    def test_not_even_some_stages_later(self):
        stage = '[[stages]]\ntechnique = "pruning"\n'
        assert [place for place, _ in problems(RECIPE + stage * 2 + "finetune = {}")] == ["stages.4.finetune"]

    @pytest.mark.parametrize(
        "stage",
        [
            'technique = "pruning"\nfrom = "pruning"\nfinetune = {}',
            'technique = "distillation"\nparams = { student = { source = "toolkit.testing:toy_mlp" } }\nfinetune = {}',
        ],
    )
    def test_another_start_or_another_model_can_be_trained(self, stage):
        assert len(read(f"{RECIPE}[[stages]]\n{stage}\n").stages) == 3

    @pytest.mark.parametrize(
        "stage",
        ['technique = "distillation"', 'technique = "pruning"\nparams = { schedule = "gradual" }'],
    )
    def test_what_only_acts_while_training_needs_training(self, stage):
        [(place, sentence)] = problems(f"{HEAD}[[stages]]\n{stage}\n")
        assert place == "stages.1.finetune"
        assert sentence.endswith("with these params needs training")

    def test_a_stage_that_is_wrong_in_itself_causes_no_other_mistakes(self):
        stages = '[[stages]]\ntechnique = "quantisation"\n[[stages]]\ntechnique = "pruning"\nfinetune = {}\n'
        assert [place for place, _ in problems(HEAD + stages)] == ["stages.1.technique"]


class TestOverrides:
    def test_values_are_toml_and_text_where_they_are_not(self):
        settings = ["a.b=1", "c = 0.5", "d=true", "e=[1, 2]", "f=some text", "g=x=y", 'h="1"', "i=", "j={k = 1}"]
        assert parse_settings(settings) == {
            "a.b": 1, "c": 0.5, "d": True, "e": [1, 2], "f": "some text", "g": "x=y", "h": "1", "i": "", "j": {"k": 1},
        }  # fmt: skip

    @pytest.mark.parametrize("text", ["1" * 5000, "[" * 3000, "[1, 2", "{a = 1, a = 2}"])
    def test_a_value_that_is_no_toml_is_text(self, text):
        assert parse_settings([f"seed={text}"]) == {"seed": text}

    @pytest.mark.parametrize("setting", ["stages.1.params.sparsity", "", "=1", " = 1", "seed:1"])
    def test_a_setting_has_a_place_and_a_value(self, setting):
        with pytest.raises(InputError) as caught:
            parse_settings(["seed=1", setting])
        assert str(caught.value) == f"--set must be PLACE=VALUE, found '{setting}'"

    def test_they_replace_what_is_there_and_make_tables_that_may_be(self):
        overrides = {
            "stages.1.params.sparsity": 0.9,
            "stages.2.params.engine": "torch",
            "model.training.clip_norm": 1.0,
            "measure.batch_sizes": [2],
            "name": "other",
        }
        recipe = read(RECIPE, overrides=overrides)
        assert recipe.stages[0].uses[0].params.sparsity == 0.9
        assert recipe.stages[1].uses[0].params.engine == "torch"
        assert recipe.model.training is not None
        assert recipe.model.training.clip_norm == 1.0
        assert recipe.measure.batch_sizes == [2]
        assert recipe.name == "other"

    @pytest.mark.parametrize(
        ("place", "problem"),
        [
            ("stages.3.params.sparsity", "--set has no entry '3'; 'stages' has the entries 1 to 2"),
            ("stages.0.params.sparsity", "--set has no entry '0'; 'stages' has the entries 1 to 2"),
            ("stages.-1.name", "--set has no entry '-1'; 'stages' has the entries 1 to 2"),
            ("stages.pruning.name", "--set has no entry 'pruning'; 'stages' has the entries 1 to 2"),
            ("stages.²", "--set has no entry '²'; 'stages' has the entries 1 to 2"),
            (f"stages.{'1' * 5000}", f"--set has no entry '{'1' * 5000}'; 'stages' has the entries 1 to 2"),
            ("model.source.x", "--set has no entry 'x'; 'model.source' is a value, not a table"),
            ("seed.x.y", "--set has no entry 'x'; 'seed' is a value, not a table"),
        ],
        ids=range(8),
    )
    def test_a_place_that_leads_nowhere(self, place, problem):
        assert problems(RECIPE, overrides={place: 1}) == [(place, problem)]

    @pytest.mark.parametrize(
        ("place", "found", "hint"),
        [
            ("stage.1.params.sparsity", "stage", "stages"),
            ("stages.1.parms.sparsity", "stages.1.parms", "params"),
            ("stages.1.params.sparsty", "stages.1.params.sparsty", "sparsity"),
            ("model.trainin.epochs", "model.trainin", "training"),
        ],
    )
    def test_a_place_that_no_recipe_has(self, place, found, hint):
        assert problems(RECIPE, overrides={place: 1}) == [(found, f"is not a known key; did you mean '{hint}'?")]

    def test_they_are_checked_like_what_the_file_says(self):
        assert problems(RECIPE, overrides={"stages.1.params.sparsity": "0.5"}) == [
            ("stages.1.params.sparsity", 'must be a valid number, found "0.5"')
        ]

    def test_they_cannot_nest_without_end(self):
        assert problems(RECIPE, overrides={"model.args" + ".a" * 2000: 1}) == [("", "is nested too deeply")]


class Rich(toolkit.Params):
    """Params with models inside of lists, and a check with a bug."""

    models: list[toolkit.Source] = Field(default=[], description="several")
    checked: int = Field(default=0, description="checked by code that fails")
    untold: int = Field(default=0, description="makes a property fail")

    @field_validator("checked")
    @classmethod
    def _fails(cls, value):
        return value if value == 0 else {}["nothing"]

    @property
    def trainable_after(self):
        return self.untold == 0 or {}["nothing"]


class TestTechniquesOfOthers:
    def test_mistakes_inside_lists_have_places(self, install):
        install("rich", Rich)
        text = (
            HEAD
            + """[[stages]]\ntechnique = "rich"
            params = { models = [{ source = "lenet5" }, { source = "lenet" }, { sauce = "x" }] }"""
        )
        assert [place for place, _ in problems(text)] == [
            "stages.1.params.models.2.source",
            "stages.1.params.models.3.sauce",
        ]

    def test_models_inside_lists_are_built_before_anything_trains(self, install, tmp_path):
        install("rich", Rich)
        text = (
            HEAD
            + """[[stages]]\ntechnique = "rich"
            params = { models = [{ source = "toolkit.testing:toy_cnn" }, { source = "lenet5" }] }"""
        )
        [(place, sentence)] = problems(text, tmp_path, check=assembled)
        assert place == "stages.1.params.models.2"
        assert sentence.startswith("cannot run on the data: RuntimeError: ")

    @pytest.mark.parametrize("name", ["checked", "untold"])
    def test_a_check_that_fails_is_no_crash(self, install, name):
        install("rich", Rich)
        text = f'{HEAD}[[stages]]\ntechnique = "rich"\nparams = {{ {name} = 1 }}'
        assert problems(text) == [("stages.1.params", "cannot be checked: 'rich' raised KeyError: 'nothing'")]


NETS = """
import torch
from torch import nn
from beside import WIDTH
from toolkit import Data
from toolkit.testing import toy_data

class Net(nn.Module):
    def __init__(self, hidden=WIDTH):
        super().__init__()
        self.enter, self.leave = nn.Linear(64, hidden), nn.Linear(hidden, 4)
    def forward(self, inputs):
        return self.leave(self.enter(inputs.flatten(1)).relu())

def factory(hidden, depth=1):
    middle = [nn.Linear(hidden, hidden) for _ in range(depth)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), *middle, nn.Linear(hidden, 4))

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))

def five_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

def three_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def unsavable():
    net = Net()
    net.trick = net.eval
    return net

def no_module():
    return 3

def anything(hidden, **more):
    return Net(hidden)

def fails():
    raise RuntimeError("no\\nluck")

def leaves():
    raise SystemExit(0)

def no_test():
    return Data(train=toy_data(64).train)

def empty():
    return toy_data(0)
"""


@pytest.fixture
def beside(tmp_path):
    """A folder with Python files for a recipe."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    return tmp_path


class TestPythonBesideTheRecipe:
    @pytest.mark.parametrize(
        ("source", "args", "widths"),
        [
            ("nets.py:Net", "{}", [8, 4]),
            ("nets.py:Net", "{ hidden = 5 }", [5, 4]),
            ("nets.py:factory", "{ hidden = 3 }", [3, 3, 4]),
            ("./nets.py:factory", "{ hidden = 3, depth = 0 }", [3, 4]),
        ],
    )
    def test_a_class_or_a_factory_is_called_with_args(self, beside, source, args, widths):
        text = edited("toolkit.testing:toy_mlp", source)
        model = assembled(text.replace("training", f"args = {args}\ntraining"), beside).model
        assert [module.out_features for module in model.modules() if isinstance(module, torch.nn.Linear)] == widths

    def test_lazy_layers_get_their_shapes(self, beside):
        model = assembled(edited("toolkit.testing:toy_mlp", "nets.py:lazy"), beside).model
        assert model[1].weight.shape == (4, 64)

    def test_a_file_is_found_beside_the_recipe_and_not_where_one_stands(self, beside, monkeypatch):
        (beside / "toy.toml").write_text(edited("toolkit.testing:toy_mlp", "nets.py:Net"))
        elsewhere = beside / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        assert read_recipe("../toy.toml").model.source == f"{beside / 'nets.py'}:Net"

    @pytest.mark.parametrize(
        ("source", "sentence"),
        [
            ("net.py:Net", "'{0}/net.py' does not exist"),
            ("broken.py:f", "cannot import '{0}/broken.py': SyntaxError: invalid syntax (broken.py, line 2)"),
            ("leaving.py:f", "cannot import '{0}/leaving.py': SystemExit: 0"),
            ("nets.py:Nets", "'{0}/nets.py' has no 'Nets'; did you mean 'Net'?"),
            ("nets.py:Net.nothing", "'{0}/nets.py' has no 'Net.nothing'; known: forward"),
        ],
    )
    def test_what_is_not_there_is_named(self, beside, source, sentence):
        [(place, said)] = problems(edited("toolkit.testing:toy_mlp", source), beside)
        assert (place, said) == ("model.source", sentence.format(beside))

    @pytest.mark.parametrize(
        ("source", "args", "sentence"),
        [
            ("Net", "{ hiden = 3 }", "unknown argument 'hiden'; did you mean 'hidden'?"),
            ("factory", "{ hiden = 3 }", "unknown argument 'hiden'; did you mean 'hidden'?"),
            ("factory", "{}", "missing a required argument: 'hidden'"),
            ("fails", "{ hidden = 3 }", "unknown argument 'hidden'"),
            (
                "Net",
                "{ hiden = 3, depth = 1 }",
                "unknown argument 'hiden'; did you mean 'hidden'?; unknown argument 'depth'; known: hidden",
            ),
            ("anything", "{ depth = 3 }", "missing a required argument: 'hidden'"),
        ],
    )
    def test_args_are_bound_before_anything_is_called(self, beside, source, args, sentence):
        text = edited("toolkit.testing:toy_mlp", f"nets.py:{source}").replace("training", f"args = {args}\ntraining")
        assert problems(text, beside) == [("model.args", sentence)]

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("no_module", "model '{0}' must return a torch.nn.Module, found int"),
            ("fails", "model '{0}' raised RuntimeError: no luck"),
            ("leaves", "model '{0}' raised SystemExit: 0"),
            ("unsavable", "Net has the method 'eval' in 'trick'; use a top-level function"),
            (
                "three_classes",
                "does not match the train split: targets must be class indices from 0 to 2, found 3",
            ),
        ],
    )
    def test_a_model_that_cannot_be_used(self, beside, name, sentence):
        text = edited("toolkit.testing:toy_mlp", f"nets.py:{name}")
        assert problems(text, beside, check=assembled) == [("model", sentence.format(f"{beside}/nets.py:{name}"))]

    @pytest.mark.parametrize(
        ("edit", "sentence"),
        [
            ({"source": "nets.py:no_module"}, f"data source '{{0}}:no_module' must return {FORMS}, found int"),
            ({"source": "nets.py:fails"}, "data '{0}:fails' raised RuntimeError: no luck"),
            ({"source": "nets.py:empty"}, "the train split is empty"),
            (
                {"source": "nets.py:no_test", "validation": 0},
                "has neither a test nor a validation split; add one to measure on",
            ),
            (
                {"source": "nets.py:no_test", "validation": 64},
                "`validation` must be less than the number of training samples (64), found 64",
            ),
        ],
    )
    def test_data_that_cannot_be_used(self, beside, edit, sentence):
        overrides = {f"data.{key}": value for key, value in edit.items()}
        found = problems(RECIPE, beside, overrides, check=assembled)
        assert found == [("data", sentence.format(beside / "nets.py"))]

    def test_a_student_whose_outputs_do_not_match(self, beside):
        stage = '[[stages]]\ntechnique = "pruning"\n' + LEARN.replace(
            "alpha = 0.5", 'student = { source = "nets.py:five_classes" }, teacher = { source = "nets.py:Net" }'
        )
        assert problems(HEAD + stage, beside, check=assembled) == [
            (
                "stages.1.with.1.params.student",
                "must have the outputs of the model, (4,) per sample, found (5,)",
            )
        ]

    def test_everything_that_cannot_be_made_is_found_at_once(self, beside):
        torch.save(toy_cnn().state_dict(), beside / "cnn.pt")
        stage = '[[stages]]\ntechnique = "pruning"\n' + LEARN.replace(
            "alpha = 0.5",
            'student = { source = "nets.py:fails" }, teacher = { source = "nets.py:Net", weights = "cnn.pt" }',
        )
        overrides = {"data.source": "nets.py:empty", "model.source": "nets.py:no_module"}
        if not torch.cuda.is_available():
            overrides["device"] = "cuda"
        found = problems(HEAD + stage, beside, overrides, check=assembled)
        assert [place for place, _ in found] == [
            *(["device"] if "device" in overrides else []),
            "data",
            "model",
            "stages.1.with.1.params.student",
            "stages.1.with.1.params.teacher",
        ]


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved(state, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return f'weights = "{path.name}"'


class TestWeights:
    def recipe(self, weights):
        return edited("training = { epochs = 1, lr = 1e-3 }", weights)

    @pytest.mark.parametrize("name", ["toy.pt", "toy.safetensors"])
    def test_they_are_loaded(self, tmp_path, name):
        state = toy_mlp().state_dict()
        model = assembled(self.recipe(saved(state, tmp_path / name)), tmp_path).model
        assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())

    @pytest.mark.parametrize("name", ["toy.pt", "toy.safetensors"])
    @pytest.mark.parametrize(
        ("other", "mismatches"),
        [
            (
                lambda: toy_mlp(16),
                "'1.weight' must be (32, 64), found (16, 64); '1.bias' must be (32,), found (16,); "
                "'3.weight' must be (4, 32), found (4, 16)",
            ),
            (
                lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Linear(32, 4)),
                "'3.weight' is missing; '3.bias' is missing; '2.bias' is not in the model; "
                "'2.weight' is not in the model",
            ),
        ],
    )
    def test_of_another_architecture_they_are_compared_name_by_name(self, tmp_path, name, other, mismatches):
        text = self.recipe(saved(other().state_dict(), tmp_path / name))
        [(place, sentence)] = problems(text, tmp_path, check=assembled)
        head, _, listed = sentence.partition(": ")
        assert (place, head) == ("model", f"{tmp_path / name} does not match Sequential")
        assert sorted(listed.split("; ")) == sorted(mismatches.split("; "))

    def test_long_lists_of_mismatches_are_cut(self, tmp_path):
        text = self.recipe(saved(toy_cnn().state_dict(), tmp_path / "toy.pt"))
        [(_, sentence)] = problems(text, tmp_path, check=assembled)
        listed, _, rest = sentence.rpartition("; … and ")
        assert listed.count("; ") == 5
        assert rest == "5 more"

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("toy.pt", b"", "is corrupted, or not a state dict written by torch.save"),
            ("toy.pt", b"hello world " * 100, "is corrupted, or not a state dict written by torch.save"),
            ("toy.safetensors", b"", "is damaged or not safetensors"),
            ("toy.safetensors", b"hello world " * 100, "is damaged or not safetensors"),
        ],
    )
    def test_damaged_files_are_named(self, tmp_path, name, content, reason):
        (tmp_path / name).write_bytes(content)
        [(place, sentence)] = problems(self.recipe(f'weights = "{name}"'), tmp_path, check=assembled)
        assert place == "model"
        assert sentence.startswith(f"{tmp_path / name} {reason}")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (toy_mlp(), "contains more than tensors and is not loaded; save the model's state_dict(), not the model"),
            (
                {"settings": {"lr": 0.1}},
                "is not a state dict; save the model's state_dict(), not the model",
            ),
            ([1, 2], "is not a state dict; save the model's state_dict(), not the model"),
        ],
    )
    def test_what_is_no_state_dict_is_named(self, tmp_path, content, reason):
        text = self.recipe(saved(content, tmp_path / "toy.pt"))
        assert problems(text, tmp_path, check=assembled) == [("model", f"{tmp_path / 'toy.pt'} {reason}")]

    def test_tensors_without_values_are_named(self, tmp_path):
        state = {name: tensor.to("meta") for name, tensor in toy_mlp().state_dict().items()}
        [(place, sentence)] = problems(self.recipe(saved(state, tmp_path / "toy.pt")), tmp_path, check=assembled)
        assert place == "model"
        assert sentence.startswith(f"cannot load {tmp_path / 'toy.pt'} into Sequential: RuntimeError: ")

    @pytest.mark.parametrize("name", ["toy.pt", "toy.safetensors"])
    @pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
    def test_a_malicious_file_is_not_executed(self, tmp_path, recwarn, name, write):
        write({"1.weight": Malicious(tmp_path / "executed")}, tmp_path / name)
        [(place, sentence)] = problems(self.recipe(f'weights = "{name}"'), tmp_path, check=assembled)
        assert place == "model"
        assert not (tmp_path / "executed").exists()
        assert "weights_only" not in sentence  # torch's own text says how to execute it nevertheless
        assert not recwarn.list

    def test_lazy_layers_take_the_shapes_of_the_weights(self, beside):
        weights = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)).state_dict()
        text = self.recipe(saved(weights, beside / "toy.pt")).replace("toolkit.testing:toy_mlp", "nets.py:lazy")
        assert torch.equal(assembled(text, beside).model[1].weight, weights["1.weight"])

    @pytest.mark.parametrize("name", ["no.pt", "a" * 5000, "", "folder"])
    def test_a_file_that_is_not_there(self, tmp_path, name):
        (tmp_path / "folder").mkdir()
        assert problems(self.recipe(f'weights = "{name}"'), tmp_path) == [
            ("model.weights", f"{tmp_path / name} does not exist")
        ]

    def test_a_recipe_names_the_state_dict_of_a_checkpoint(self, tmp_path):
        states = {"model": toy_mlp().state_dict(), "ema": toy_mlp().state_dict()}
        text = self.recipe(saved(states, tmp_path / "toy.pt"))
        several = f"{tmp_path / 'toy.pt'} contains several state dicts; set `weights_key` to one of 'model', 'ema'"
        assert problems(text, tmp_path, check=assembled) == [("model", several)]
        model = assembled(text, tmp_path, {"model.weights_key": "ema"}).model
        assert all(torch.equal(tensor, states["ema"][key]) for key, tensor in model.state_dict().items())

    def test_a_key_without_weights(self):
        found = problems(RECIPE, overrides={"model.weights_key": "ema"})
        assert found == [("model.weights_key", "requires `weights`")]

    def test_a_file_that_is_where_the_user_is_but_not_beside_the_recipe(self, tmp_path, monkeypatch):
        (tmp_path / "recipes").mkdir()
        saved(toy_mlp().state_dict(), tmp_path / "toy.pt")
        (tmp_path / "photos").mkdir()
        monkeypatch.chdir(tmp_path)
        remedy = f"does not exist; relative paths start beside the recipe, write {tmp_path}"
        found = problems(self.recipe('weights = "toy.pt"'), tmp_path / "recipes")
        assert found == [("model.weights", f"{tmp_path / 'recipes/toy.pt'} {remedy}/toy.pt")]
        photos = {"data.source": "image-folder", "data.args": {"root": "photos"}}
        found = problems(RECIPE, tmp_path / "recipes", photos)
        assert found == [("data.args", f"{tmp_path / 'recipes/photos'} {remedy}/photos")]

    @pytest.mark.parametrize("lr", [1e-12, 0.1])
    def test_a_training_starts_from_them(self, tmp_path, lr):
        weights = toy_mlp().state_dict()
        text = edited("[data]", saved(weights, tmp_path / "toy.pt") + "\n[data]")
        (tmp_path / "recipe.toml").write_text(text)
        toolkit.run(tmp_path / "recipe.toml", {"model.training.lr": lr}, output=tmp_path / "run")
        baseline = toolkit.load(tmp_path / "run/stages/0-baseline").state_dict()
        agree = [torch.allclose(tensor, weights[name], atol=1e-6) for name, tensor in baseline.items()]
        assert agree == [lr < 1e-3] * len(weights)


class TestResolved:
    @pytest.mark.parametrize(
        "text",
        [
            RECIPE,
            edited("finetune = { epochs = 2 }", LEARN),
            edited("finetune = { epochs = 2 }", LEARN.replace("alpha = 0.5", 'student = { source = "nets.py:Net" }')),
            RECIPE
            + '[[stages]]\nname = "again"\nfrom = "baseline"\ntechnique = "pruning"\nparams = { pattern = "2:4" }',
            edited("toolkit.testing:toy_mlp", "nets.py:Net").replace("training", "args = { hidden = 5 }\ntraining"),
            edited("training = { epochs = 1, lr = 1e-3 }", 'weights = "broken.py"'),
            edited("batch_size = 64", "args = { samples = 256, noise = 0.1 }\nvalidation = 0"),
            edited("toolkit.testing:toy_mlp", "mlp").replace("training", "args = { hidden = [] }\ntraining"),
        ],
        ids=range(8),
    )
    def test_it_reads_back_as_the_same_recipe(self, beside, text):
        recipe = read(text, beside)
        resolved = resolved_recipe(recipe, 2, "cpu", {})
        again = parse_recipe(resolved, "recipe.toml", beside / "runs", "ignored")
        assert again.table == recipe.table.model_copy(update={"threads": 2, "device": "cpu"})
        assert again.stages == recipe.stages
        assert resolved_recipe(again, 2, "cpu", {}) == resolved

    def test_what_was_chosen_takes_the_place_of_auto(self):
        recipe = read(edited("epochs = 2", 'epochs = 2, precision = "auto"'))
        settings = recipe.stages[0].finetune
        assert settings is not None
        chosen = settings.model_copy(update={"precision": "bfloat16"})
        again = read(resolved_recipe(recipe, 1, "cpu", {1: chosen}))
        assert again.stages[0].finetune == chosen
        assert again.model == recipe.model


def test_a_built_in_model_without_training_or_weights_is_refused():
    text = '[model]\nsource = "lenet5"\n[data]\nsource = "mnist"\n[[stages]]\ntechnique = "pruning"\n'
    [(place, sentence)] = problems(text)
    assert (place, sentence) == (
        "model",
        "has neither `training` nor `weights`; set one of them, or the baseline stays untrained",
    )


class TestExports:
    TEXT = RECIPE + '\n[[exports]]\nruntime = "onnxruntime"\n'

    def test_an_export_is_of_the_last_stage_by_default(self):
        recipe = read(self.TEXT + 'from = "pruning"\nname = "sparse"\n[[exports]]\nruntime = "onnxruntime"\n')
        assert [(export.name, export.start) for export in recipe.exports] == [("sparse", 1), ("onnxruntime", 2)]

    def test_the_baseline_can_be_exported(self):
        assert read(self.TEXT + 'from = "baseline"\n').exports[0].start == 0

    @pytest.mark.parametrize(
        ("lines", "place", "sentence"),
        [
            ('from = "prunning"', "exports.1.from", "did you mean 'pruning'"),
            ('name = "int8"', "exports.1.name", "'int8' names a row already; choose another name"),
            ("params = { opset = 7 }", "exports.1.params.opset", "21"),
            ("params = { opsets = 21 }", "exports.1.params.opsets", "opset"),
            ("finetune = { epochs = 1 }", "exports.1.finetune", ""),
            ("[[stages]]\ntechnique = []", "stages.3.technique", "found []"),
            ('[[exports]]\nruntime = "onnxruntime"', "exports.2.name", "'onnxruntime' names a row already"),
        ],
    )
    def test_mistakes(self, lines, place, sentence):
        ((found, message),) = problems(f"{self.TEXT}{lines}\n")
        assert found == place
        assert sentence in message

    @pytest.mark.parametrize(
        ("runtime", "sentence"),
        [
            ("onnxruntim", "no runtime 'onnxruntim' is installed; did you mean 'onnxruntime'?"),
            ("distillation", "as the technique of a stage"),
        ],
    )
    def test_what_is_not_a_runtime(self, runtime, sentence):
        ((place, message),) = problems(self.TEXT.replace('"onnxruntime"', f'"{runtime}"'))
        assert place == "exports.1.runtime"
        assert sentence in message


def test_a_value_that_no_member_of_a_choice_is_meant_for_is_a_mistake():
    text = f'{RECIPE}\n[[stages]]\ntechnique = "quantization"\nname = "compiled"\nparams = {{ compile = {{}} }}\n'
    ((place, message),) = problems(text)
    assert place.endswith(".params.compile")
    assert message == "must be a valid boolean, found {}"
