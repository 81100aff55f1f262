"""Whatever a recipe says, it is read or refused in sentences: never another error, never a hang, and nothing called."""

import copy
import datetime
import gc
import importlib
import importlib.machinery
import importlib.util
import re
import signal
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import Field

import toolkit
from toolkit import importing
from toolkit.errors import InputError, RecipeError
from toolkit.hooks import loading as techniques
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.overrides import parse_settings
from toolkit.recipe.read import Recipe, parse_recipe, read_recipe
from toolkit.recipe.resolved import resolved_recipe
from toolkit.recipe.shipped import shipped
from toolkit.recipe.tables import MeasureTable, ModelTable, PluginTable, RecipeTable, StageTable
from toolkit.runner.assembly import assemble
from toolkit.testing import toy_mlp
from toolkit.training import TrainingSettings

CPU_SECONDS = 2.0  # a recipe takes milliseconds; of the processor's time, so that a busy machine is no hang
LONGEST_LINE = 13_000  # a place and a sentence, both of which are cut in the middle


class OddParams(toolkit.Params):
    """Kinds of fields that the techniques of the toolkit do not have."""

    either: int | list[int] | dict[str, Any] = Field(default=0, description="a union of everything")
    several: list[toolkit.Source] = Field(default=[], description="models in a list")
    named: dict[str, toolkit.Source] = Field(default={}, description="models in a table")
    pair: tuple[int, float] | None = Field(default=None, description="of a fixed length")
    whatever: Any = Field(default="", description="anything at all")
    choice: Literal["a", 1] | toolkit.Source = Field(default="a", description="a word, a number or a model")
    two: list[str] = Field(default=["a", "b"], min_length=2, description="more than one")


NETS = """
from pathlib import Path
from torch import nn
from toolkit.testing import toy_mlp

def called(**anything):
    Path(__file__).with_name("called").touch()
    return toy_mlp()

class Net(nn.Sequential):
    def __init__(self, hidden=3, *, depth=1):
        called()

def metric(outputs, batch):
    return (outputs.argmax(1) == batch.targets).float()

def wrong_metric(outputs, batch):
    raise RuntimeError("no\\nluck")

value, table, number = "text", {"a": called}, 3
"""

# What a recipe of this test may import; all else that exists is hidden, so that no random name runs anything.
IMPORTABLE = {"toolkit", "toolkit_pruning", "toolkit_quantization", "toolkit_distillation", "os", "math", "builtins"}
SOURCES = [
    *("toolkit.testing:toy_mlp", "toolkit.testing:toy_data", "toolkit.testing:toy_cnn", "lenet5", "mlp", "mnist"),
    *("nets.py:called", "nets.py:Net", "nets.py:metric", "./nets.py:Net", "folder/../nets.py:Net"),
]
METRICS = [source for source in SOURCES if ":" in source]
WRONG_SOURCES = [
    *("nets.py:no", "nets.py:value", "nets.py:table.a", "nets.py:number.real", "nets.py:table.no", "nets.py:value.x.y"),
    *("nets.py:Net.__init__", "nets.py:Net.training", "nets.py", "nets.py:", ":", "::", ".py:Net", "a:b.py:c"),
    *("broken.py:f", "leaving.py:f", "looping.py:f", "lazy.py:f", "folder:f", "folder.py:f", "binary.py:f"),
    *("no.py:f", "~/no.py:f"),
    *("toolkit.testing:__all__.x", "toolkit.testing:toy_mlp.x", "toolkit.testing:", "toolkit.testing:.", "lenet", ""),
    *("os:system", "math:pi", "math:floor", "builtins:print", "builtins:len.x", "builtins:dict", "os.path:join", "os:"),
    *(".x:f", "..:f", " :f", "no_such_package:f", "no such package.x:f", "a" * 5000 + ":f", "a" * 5000 + ".py:f"),
    *("a\0b.py:f", "a\0b:f", "a\nb:f", "\x1b[31m:f", "größe:f", "größe.py:f", "/dev/null.py:f", "/proc/self/mem.py:f"),
]
NAMES = ["pruning", "distillation", "quantization", "odd", "watcher", "baseline", "a", "b", "prunning"]
NASTY = [
    *("", " ", ".", "..", "a.b", "a/b", "\0", "a\0b", "\n", "a\nb: c", "\r\n", "\t", "\x1b[31m", "\x7f", "\u2028"),
    *("\u202ex", "\ufeff", "\x85", "\U0001f600", "𠀀" * 80, "é", "'", '"', '"""', "\\", "%s", "{0}", "$HOME", "1e-3"),
    *("a" * 300, "a" * 20_000, "ab\n" * 5_000, "__class__", "model_config", "self", "from", "with", "2:4", "4:2"),
    *("1:" + "9" * 5_000, "-1:2", "²:4", "*", "[", "weights.pt", "folder", "looping.py", "reference", "input"),
    *("0:1", "gradual"),
]
NUMBERS = [0, 1, 2, -1, 64, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400]
DATES = [
    datetime.date(1979, 5, 27),
    datetime.time(7, 32, 0, 999),
    datetime.datetime(1979, 5, 27, tzinfo=datetime.timezone(datetime.timedelta(minutes=-1))),
]
TOKENS = [
    *("0x" + "f" * 5_000, "1" * 5_000, "[" * 150 + "]" * 150, "nan", "-inf", "1e999", "true", "1979-05-27", "00:00:60"),
    *("[[stages]]", "[stages]", "[[plugins]]", "[model]", "[x.y]", "=", ",", "{", "}", "[", "]", "#", '"', "'", '"""'),
    *("\n", "\r", "\0", "\ufeff", "\ud800", "a" * 2_000, ".a" * 200, "0b2", "1__0", "+24:00", '"\\ud800"', '"\\u0000"'),
]
CORPUS = [
    *(path.read_text(encoding="utf-8") for path in shipped().values()),
    """name = "toy"
seed = 3
threads = 1
device = "cpu"
promises = "warn"
[model]
source = "nets.py:Net"
args = { hidden = 5 }
weights = "weights.pt"
[data]
source = "toolkit.testing:toy_data"
metrics = ["nets.py:metric"]
args = { samples = 64, noise = 0.5 }
validation = 8
[[stages]]
technique = "pruning"
params = { pattern = "2:4", layers = ["*"], exclude = ["x"] }
with = [{ technique = "distillation", params = { teacher = { source = "nets.py:Net", weights = "weights.pt" } } }]
finetune = { epochs = 1, optimizer = "sgd", momentum = 0.5, clip_norm = 1, precision = "auto" }
[[stages]]
name = "other"
from = "baseline"
technique = "odd"
params = { either = [1], several = [{ source = "mlp", args = { hidden = [] } }], named = { a = { source = "lenet5" } } }
[[plugins]]
name = "watcher"
params = { either = { a = 2000-01-01 }, choice = 1 }
[measure]
batch_sizes = [1, 2]
budget = 0.5
""",
]

WORDS = st.sampled_from([*NASTY, *NAMES, *SOURCES, *WRONG_SOURCES])
SCALARS = st.one_of(
    *(st.sampled_from(NUMBERS), st.integers(), st.floats(), st.booleans(), WORDS, st.text(max_size=20)),
    st.sampled_from(DATES),
)
TABLES = (RecipeTable, ModelTable, DataTable, StageTable, PluginTable, MeasureTable, TrainingSettings)
KEYS = st.sampled_from(["from", "with", *(name for table in TABLES for name in table.model_fields), *NASTY])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """The folder of all recipes here, with Python files in it; two plugins more; and few modules to import."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "nets.py").write_text(NETS)
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "leaving.py").write_text("raise SystemExit\n")
    (folder / "lazy.py").write_text("def __getattr__(name):\n    raise ImportError(f'{name} needs more')\n")
    (folder / "binary.py").write_bytes(b"\0\xff" * 20)
    (folder / "looping.py").symlink_to("looping.py")
    (folder / "folder.py").mkdir()
    (folder / "folder").mkdir()
    torch.save(toy_mlp().state_dict(), folder / "weights.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(techniques, "load", _with_more_plugins(techniques.load))
        patch.setattr(importing, "importlib", SimpleNamespace(import_module=_import, util=importlib.util))
        gc.collect()
        gc.freeze()  # collecting what other tests left behind would count as time that a recipe takes
        yield folder
        gc.unfreeze()


def _with_more_plugins(load):
    odd = SimpleNamespace(optimize=toolkit.hookimpl(lambda model: model), Params=OddParams)
    watcher = SimpleNamespace(on_row=toolkit.hookimpl(lambda row: None), Params=OddParams)
    more = {
        ("odd", "technique"): techniques.from_module(odd, "odd", "tests 1.0"),
        ("watcher", "observer"): techniques.from_module(watcher, "watcher", "tests 1.0", "observer"),
    }
    return lambda name, role="technique": more[name, role] if (name, role) in more else load(name, role)


IMPORTED: list[str] = []


def _import(name):
    IMPORTED.append(name)
    if (top := name.partition(".")[0]) not in IMPORTABLE and _exists(top):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return importlib.import_module(name)


def _exists(top):
    try:
        return top in sys.builtin_module_names or importlib.machinery.PathFinder.find_spec(top) is not None
    except Exception:  # a name that is none
        return False


@contextmanager
def within(seconds):
    """Fail if it takes more of the processor's time."""

    def give_up(number, frame):
        raise AssertionError(f"hangs: more than {seconds} s")

    gc.disable()  # collecting Hypothesis's objects is no time of a recipe, and an error in a callback of it gets lost
    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        gc.enable()


def outcome(make, allowed=RecipeError):
    """What `make` returns, or the error it is allowed to raise, which must be fit to be read."""
    with within(CPU_SECONDS):
        try:
            return make()
        except allowed as error:
            refused = error
    require_sentences(refused)
    return refused


def require_sentences(error):
    text = str(error)
    problems = getattr(error, "problems", None)
    lines = text.split("\n")
    assert len(lines) == (1 if problems is None else len(problems))
    for line in lines:
        assert line.isprintable(), ascii(line)
        assert 10 < len(line) < LONGEST_LINE
        assert not re.search(r"Traceback|File \"|pydantic|\[type=|validation error", line), line
    for problem in problems or ():
        assert problem.message.strip()
        assert problem.place or re.match("is (not TOML|empty|nested|not valid (text|UTF-8))", problem.message), text


def require_reads_back(recipe, folder):
    resolved = resolved_recipe(recipe, 2, "cpu", {})
    again = parse_recipe(resolved, "again.toml", folder / "folder", "again")
    # As text: a NaN among the args is not equal to itself.
    assert repr(again.table) == repr(recipe.table.model_copy(update={"threads": 2, "device": "cpu"}))
    assert resolved_recipe(again, 2, "cpu", {}) == resolved
    assert [stage.start for stage in again.stages] == [stage.start for stage in recipe.stages]


def require_recipe_or_sentences(text, folder, overrides=None):
    IMPORTED.clear()
    result = outcome(lambda: parse_recipe(text, "fuzz.toml", folder, "fuzz", overrides))
    assert not (folder / "called").exists(), "a source was called"
    assert set(IMPORTED) <= named_modules(text, overrides)
    if isinstance(result, Recipe):
        require_reads_back(result, folder)
    return result


def named_modules(text, overrides):
    """What stands before a colon in any text of the recipe: all that may be imported."""
    try:
        content = tomllib.loads(text)
    except (ValueError, TypeError, RecursionError):
        return set()
    return {word.rpartition(":")[0] for word in texts_in([content, overrides or {}])}


def texts_in(value, depth=120):
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, (dict, list, tuple)):  # an override may contain itself
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item, depth - 1)


@st.composite
def mutated_texts(draw):
    """A recipe with some characters, words or lines deleted, repeated, moved, cut off or put in."""
    text = draw(st.sampled_from(CORPUS))
    for _ in range(draw(st.integers(1, 4))):
        parts = re.findall(draw(st.sampled_from([r"(?s).", r"(?s)\w+|\s+|.", r".*\n?"])), text)
        start = draw(st.integers(0, len(parts)))
        stop = min(start + draw(st.sampled_from([0, 1, 1, 1, 2, 5, 50])), len(parts))
        other = draw(st.integers(0, len(parts)))
        new = draw(st.sampled_from([*TOKENS, *NAMES, *SOURCES, *WRONG_SOURCES]) | st.characters())
        changed = {
            "delete": parts[:start] + parts[stop:],
            "repeat": parts[:stop] + parts[start:],
            "put in": [*parts[:start], new, *parts[stop:]],
            "move": parts[:start] + parts[other : other + stop - start] + parts[start:],
            "cut off": parts[:start],
        }
        text = "".join(changed[draw(st.sampled_from(sorted(changed)))])
    return text


def places_in(value, place=()):
    """Every place in nested tables and lists, as keys and positions."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*place, key)
        if isinstance(item, (dict, list)):
            yield from places_in(item, (*place, key))


def at(content, place):
    for part in place:
        content = content[part]
    return content


def written(content):
    """The TOML of it, or of nothing where it holds what cannot be written."""
    try:
        return tomli_w.dumps(content)
    except (ValueError, TypeError, RecursionError):
        return ""


@st.composite
def mutated_tables(draw):
    """A recipe with some values deleted, repeated, renamed, replaced, exchanged, or put into a list or a table."""
    content = tomllib.loads(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(content))
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        holder = at(content, parents)
        value = copy.deepcopy(holder[last])
        match draw(st.sampled_from(["replace", "replace", "repeat", "rename", "delete", "wrap", "exchange"])):
            case "replace":
                holder[last] = draw(VALUES)
            case "repeat":
                put(holder, draw, value)
            case "rename":
                del holder[last]
                put(holder, draw, value)
            case "delete":
                del holder[last]
            case "wrap":
                holder[last] = draw(wrapped(value))
            case "exchange":
                holder[last] = copy.deepcopy(at(content, draw(st.sampled_from(places))))
    return written(content)


def put(holder, draw, value):
    if isinstance(holder, dict):
        holder[draw(KEYS)] = value
    else:
        holder.insert(draw(st.integers(0, len(holder))), value)


@st.composite
def wrapped(draw, value):
    for _ in range(draw(st.sampled_from([1, 2, 95, 120]))):
        value = draw(st.sampled_from([[value], {"a": value}]))
    return value


def rarely_wrong(right, wrong=VALUES):
    """One in thirty is wrong, so that most recipes have few mistakes and some have none."""
    return st.integers(0, 29).flatmap(lambda number: wrong if number == 17 else right)


def tables(required=None, **optional):
    return rarely_wrong(st.fixed_dictionaries(required or {}, optional=optional))


def models(**more):
    source = rarely_wrong(st.sampled_from(SOURCES), st.sampled_from(WRONG_SOURCES))
    args = st.just({}) | st.just({"hidden": 5}) | st.dictionaries(KEYS, VALUES, max_size=2)
    return tables({"source": source, "weights": rarely_wrong(st.just("weights.pt"), WORDS)}, args=args, **more)


def fields(table):
    """Some settings of a table, mostly of their type and in range."""
    values = {}
    for name, field in table.model_fields.items():
        right = [st.just(field.default)] if field.default is not None else []
        if field.annotation in (int, float, int | None, float | None):
            right.append(st.sampled_from([1, 0.5]))
        elif "Source" in str(field.annotation):
            right.append(models())
        elif field.annotation is Any or "Any" in str(field.annotation):
            right.append(VALUES)
        elif field.annotation is not str:
            right.append(st.from_type(field.annotation).map(lambda value: 1 if value is None else value))
        values[name] = rarely_wrong(st.one_of(right))
    return tables(**values)


def steps(**more):
    def step(name):
        return tables({"technique": rarely_wrong(st.just(name), st.sampled_from(NAMES))}, params=PARAMS[name](), **more)

    return st.sampled_from(sorted(PARAMS)).flatmap(step)


PARAMS = {
    name: lambda name=name: fields(techniques.load(name).params_class)
    for name in ("pruning", "distillation", "quantization", "odd")
}
TRAINING = fields(TrainingSettings)


def stages():
    more = {"name": rarely_wrong(st.sampled_from(NAMES)), "from": rarely_wrong(st.just("baseline"), WORDS)}
    others = rarely_wrong(st.lists(st.deferred(steps), max_size=1))
    return st.deferred(lambda: steps(**more, **{"with": others, "finetune": TRAINING}))


def generated_tables():
    """Recipes from the grammar."""
    model = st.one_of(
        tables({"source": st.sampled_from(["lenet5", "nets.py:Net"]), "training": TRAINING}),
        models(),
        models(training=TRAINING),
    )
    data = tables(
        {"source": rarely_wrong(st.sampled_from(SOURCES), st.sampled_from(WRONG_SOURCES))},
        batch_size=rarely_wrong(st.just(64)),
        metrics=rarely_wrong(st.lists(st.sampled_from(METRICS), max_size=2)),
        validation=rarely_wrong(st.sampled_from([0, 8])),
    )
    observer = tables({"name": rarely_wrong(st.just("watcher"), st.sampled_from(NAMES))}, params=fields(OddParams))
    content = tables(
        {"model": model, "data": data, "stages": rarely_wrong(st.lists(stages(), min_size=1, max_size=3))},
        plugins=rarely_wrong(st.lists(observer, max_size=2)),
        measure=fields(MeasureTable),
        name=rarely_wrong(st.sampled_from(NAMES)),
        seed=rarely_wrong(st.integers(0, 2**63 - 1)),
        threads=rarely_wrong(st.integers(1, 4)),
        promises=st.sampled_from(["stop", "warn"]),
    )
    return content.map(lambda content: written(content if isinstance(content, dict) else {"x": content}))


def recursive_list():
    value: list[Any] = []
    value.append(value)
    return value


PLACES = (
    st.sampled_from(
        [
            ".".join(str(part + 1) if isinstance(part, int) else part for part in place)
            for text in CORPUS
            for place in places_in(tomllib.loads(text))
        ]
    )
    | st.sampled_from(["", ".", "stages", "stages.0.name", "a..b", "model.args.\ud800", "x" + ".a" * 300, *NASTY])
    | st.text(max_size=10)
)
NO_TOML = [None, (1, 2), {1: 2}, {None: 1}, {1, 2}, Path("x"), b"x", object(), int, 1j, "\ud800", ["\ud800"]]
BEYOND_TOML = [
    *(lambda: 16**5_000, lambda: {"a": [16**5_000]}, lambda: {"\ud800": 1}, lambda: {"a": [None]}),
    *(lambda: {"a": {1: 2}}, recursive_list),
]
OVERRIDES = st.dictionaries(
    PLACES,
    # Hypothesis cannot print some of them.
    VALUES | st.sampled_from(NO_TOML) | st.sampled_from(BEYOND_TOML).flatmap(st.builds),
    max_size=3,
)
CASES = st.one_of(
    st.tuples(mutated_texts(), st.none()),
    st.tuples(mutated_tables(), st.none()),
    st.tuples(st.deferred(generated_tables), st.none()),
    st.tuples(st.sampled_from(CORPUS) | mutated_tables(), OVERRIDES),
)


def examples(number, **more):
    """So many, without a limit of wall-clock time, which a busy machine would break: `within` has one."""
    large = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=number, deadline=None, database=None, suppress_health_check=large, **more)


@examples(200, derandomize=True)
@given(case=CASES)
def test_a_recipe_is_read_or_refused_in_sentences(case, folder):
    event(type(require_recipe_or_sentences(case[0], folder, case[1])).__name__)


@pytest.mark.slow
@examples(5_000)
@given(case=CASES)
def test_any_of_many_recipes_is_read_or_refused_in_sentences(case, folder):
    event(type(require_recipe_or_sentences(case[0], folder, case[1])).__name__)


@examples(300, derandomize=True)
@given(text=st.sampled_from(CORPUS), at=st.floats(0, 1), length=st.integers(0, 3), new=st.binary(max_size=3))
def test_a_file_is_read_or_refused_in_sentences(text, at, length, new, folder):
    content = text.encode()
    start = int(at * len(content))
    path = folder / "fuzz.toml"
    path.write_bytes(content[:start] + new + content[start + length :])
    outcome(lambda: read_recipe(path), InputError)


SETTINGS = st.text(max_size=30) | st.tuples(
    PLACES,
    st.sampled_from(["=", " = ", "", "=="]),
    st.sampled_from([*TOKENS, *NASTY]) | SCALARS.map(lambda value: written({"x": value}).strip()[4:]) | st.text(),
    st.sampled_from(["", "\n", "\nx = 1", "\n[x]", " # ", "\udcff"]),
).map("".join)


@examples(300, derandomize=True)
@given(settings=st.lists(SETTINGS, max_size=3), text=st.sampled_from(CORPUS))
def test_settings_are_taken_or_refused_in_sentences(settings, text, folder):
    overrides = outcome(lambda: parse_settings(settings), InputError)
    if isinstance(overrides, dict):
        require_recipe_or_sentences(text, folder, overrides)


TOY_ARGS = rarely_wrong(st.sampled_from([1, 3, 8]), st.sampled_from([0, -1, 2**62, 0.5, "a\x1b", [1], True]) | SCALARS)
TOY_MODELS = st.sampled_from(["toy_mlp", "TiedToy"]).flatmap(
    lambda name: st.fixed_dictionaries(
        {"source": st.just(f"toolkit.testing:{name}")}, optional={"args": st.fixed_dictionaries({"hidden": TOY_ARGS})}
    )
)
TOY_TECHNIQUES = st.sampled_from(
    [
        {"technique": "pruning", "params": {"sparsity": 0.9, "layers": ["no layer"]}},
        {"technique": "quantization"},
        {"technique": "odd", "params": {"named": {"a": {"source": "toolkit.testing:toy_cnn"}}}},
        {"technique": "odd", "params": {"several": [{"source": "toolkit.testing:toy_mlp"}, {"source": "nets.py:Net"}]}},
    ]
) | st.builds(
    lambda student, alpha: {
        "technique": "distillation",
        "finetune": {},
        "params": {"student": student, "alpha": alpha},
    },
    TOY_MODELS | st.just({"source": "toolkit.testing:toy_data"}) | st.just({"source": "mlp", "args": {"hidden": [2]}}),
    st.sampled_from([0, 0.5, 1]),
)
TOYS = st.fixed_dictionaries(
    {
        "model": TOY_MODELS.flatmap(lambda model: st.sampled_from([model, model | {"training": {"epochs": 1}}])),
        "data": st.fixed_dictionaries(
            {"source": rarely_wrong(st.just("toolkit.testing:toy_data"), st.sampled_from(SOURCES))},
            optional={
                "args": st.fixed_dictionaries(
                    {"samples": st.sampled_from([0, 1, 2, 3, 9, 64, 64, 64, -1, 2**62, 0.5, "a"])},
                    optional={"noise": rarely_wrong(st.just(0.5), SCALARS)},
                ),
                "batch_size": st.sampled_from([1, 2, 63, 2**62]),
                "validation": st.sampled_from([0, 1, 63, 64, 2**62]),
                "metrics": st.sampled_from([[], ["nets.py:metric"], ["nets.py:wrong_metric"], ["math:floor"]]),
            },
        ),
        "stages": st.lists(TOY_TECHNIQUES, min_size=1, max_size=2),
    }
)


@examples(200, derandomize=True)
@given(content=TOYS)
@pytest.mark.slow
def test_a_recipe_that_was_read_is_assembled_or_refused_in_sentences(content, folder):
    recipe = outcome(lambda: parse_recipe(tomli_w.dumps(content), "fuzz.toml", folder))
    if isinstance(recipe, Recipe):
        event(type(outcome(lambda: assemble(recipe))).__name__)
        (folder / "called").unlink(missing_ok=True)


TOY = """
[model]
source = "toolkit.testing:toy_mlp"
[data]
source = "toolkit.testing:toy_data"
[[stages]]
technique = "pruning"
"""


def mistakes(folder, overrides, text=TOY):
    """What is said of a small recipe with some values replaced, by place."""
    result = require_recipe_or_sentences(text, folder, overrides)
    return {} if isinstance(result, Recipe) else {problem.place: problem.message for problem in result.problems}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("toolkit.testing:__all__.x", "'toolkit.testing' has no '__all__.x'"),
        ("looping.py:f", "'{0}/looping.py' does not exist"),
        ("a\0b.py:f", "'a\\x00b.py' does not exist"),
        ("lazy.py:Net", "cannot import 'Net' from '{0}/lazy.py': ImportError: Net needs more"),
        ("a\n\x1b[31m:f", "cannot import 'a\\n\\x1b[31m': ModuleNotFoundError: No module named 'a\\n\\x1b[31m'"),
    ],
)
def test_a_source_that_leads_nowhere_is_one_printable_sentence(folder, source, sentence):
    assert mistakes(folder, {"model.source": source}) == {"model.source": sentence.format(folder)}


@pytest.mark.parametrize(
    ("key", "place"), [("", '""'), ("a.b", '"a.b"'), ("a\nb: c", '"a\\nb: c"'), ("größe", "größe")]
)
def test_keys_that_are_no_words_are_quoted_in_places(folder, key, place):
    found = mistakes(folder, None, written({key: 1}) + TOY)
    assert set(found) == {place}


def test_very_long_names_are_shortened(folder):
    [(place, sentence)] = mistakes(folder, {"model.source": "a" * 100_000}).items()
    assert place == "model.source"
    assert sentence.startswith("unknown model 'aaa")
    assert sentence.endswith(", 'package.module:name', 'file.py:name'")


def test_a_key_of_many_thousand_parts_is_not_even_parsed(folder):
    assert mistakes(folder, None, "x" + ".a" * 5_000 + " = 1") == {"": "is nested too deeply"}


def test_very_long_names_are_not_compared_with_each_other(folder):
    letters = "".join(chr(0x4E00 + number * number % 307) for number in range(20_000))
    text = f'{TOY}name = "{letters}"\n[[stages]]\ntechnique = "pruning"\nfrom = "{letters[5:]}"'
    assert set(mistakes(folder, None, text)) == {"stages.1.name", "stages.2.from"}


@pytest.mark.parametrize("number", ["1" + "0" * 19, "-1" + "0" * 19, "0x" + "f" * 5_000], ids=range(3))
@pytest.mark.parametrize(
    ("before", "key", "place"),
    [
        ("[data]", "args.hidden", "model.args.hidden"),
        ("[[stages]]", "args.samples", "data.args.samples"),
        ("technique", "params.steps_between", "stages.1.params.steps_between"),
    ],
)
def test_numbers_that_no_recipe_can_repeat_are_refused(folder, before, key, place, number):
    text = TOY.replace(before, f"{key} = {number}\n{before}")
    [(found, sentence)] = mistakes(folder, None, text).items()
    assert found == place
    assert re.match("must fit in 64 bits, found |must be greater than or equal to 1, found -1000", sentence)


def test_a_name_must_fit_into_a_folder_in_bytes(folder):
    assert "must be at most 240 bytes long, found 320" in mistakes(folder, {"name": "𠀀" * 80})["name"]
    assert mistakes(folder, {"name": "é" * 80}) == {}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"model.args": recursive_list()}, "must be a TOML value, found list"),
        ({"model.args.hidden": 16**5_000}, "must be a TOML value, found int"),
        ({"model.args.hidden": "\udcff"}, "is not valid UTF-8"),
        ({"model.args.\udcff": 1}, "is not valid UTF-8"),
    ],
    ids=range(4),
)
def test_overrides_that_toml_cannot_hold(folder, overrides, sentence):
    assert list(mistakes(folder, overrides).values()) == [sentence]


def test_overrides_are_left_as_they_were(folder):
    given = {"model.args": {}, "model.args.hidden": 5, "data.metrics": ("nets.py:metric",)}
    recipe = require_recipe_or_sentences(TOY, folder, given)
    assert recipe.model.args == {"hidden": 5}
    assert recipe.data.metrics == [f"{folder}/nets.py:metric"]
    assert given["model.args"] == {}


def test_a_setting_gives_one_value():
    assert parse_settings(["seed=1\nname = 2", "name=1\n[x]"]) == {"seed": "1\nname = 2", "name": "1\n[x]"}


@pytest.mark.parametrize("setting", ["a\nb", "\x1b[31m", "\udcff", "a" * 20_000])
def test_a_setting_that_is_none_is_shown_on_one_line(setting):
    assert isinstance(outcome(lambda: parse_settings([setting]), InputError), InputError)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\udcff"])
def test_a_recipe_that_is_not_there_is_named_on_one_line(name):
    assert isinstance(outcome(lambda: read_recipe(name), InputError), InputError)


def test_a_file_is_named_on_one_line(folder):
    path = folder / "a\nb.toml"
    path.write_text("seed = 1")
    assert isinstance(outcome(lambda: read_recipe(path)), RecipeError)


def test_text_that_is_none_is_refused(folder):
    assert mistakes(folder, None, "# \ud800" + TOY) == {"": "is not valid text: surrogates not allowed at character 3"}


def test_lists_have_entries(folder):
    stage = {"technique": "odd", "params": {"two": ["a"]}}
    assert mistakes(folder, {"stages": [stage]}) == {"stages.1.params.two": 'must have at least 2 entries, found ["a"]'}


def test_keys_of_a_free_table_are_no_fields(folder):
    stage = {"technique": "odd", "params": {"named": {"args": {"source": "mlp", "args": {"hidden": []}, "hidden": 1}}}}
    place = "stages.1.params.named.args.hidden"
    assert mistakes(folder, {"stages": [stage]}) == {
        place: "is not a known key; known: args, source, weights, weights_key"
    }
