"""`toolkit techniques NAME --contract`: a line for each clause, an exit code, and no need of pytest."""

import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.errors import ToolkitError
from toolkit.testing import check_contract, checking

SOUND = '''
"""Leaves the model as it is."""
import toolkit

@toolkit.hookimpl
def optimize(model):
    return model
'''
OBSERVER = '''
"""Counts rows."""
import toolkit

@toolkit.hookimpl
def on_row(row):
    pass
'''
MEASURES = '''
"""Counts layers."""
import toolkit

@toolkit.hookimpl
def measure(model):
    return {"layers": len(list(model.children()))}
'''


@pytest.fixture
def command(make_plugin):
    """Runs the command on a plugin of this source: its exit code, the lines of its stdout and of its stderr."""

    def command(source, *arguments):
        make_plugin("mine", source)
        result = CliRunner().invoke(main, ["techniques", *(arguments or ("mine", "--contract"))])
        return result.exit_code, result.stdout.splitlines(), result.stderr.splitlines()

    return command


def test_every_clause_is_a_line_and_no_pytest_is_needed(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.setattr(checking, "check_contract", lambda name: check_contract(name, clause="the result"))
    code, lines, errors = command(SOUND)
    assert (code, errors) == (0, [])
    assert len(lines) > 12
    assert all(line.startswith("kept    ") for line in lines)
    assert "kept    the result survives saving [lstm]" in lines


def test_a_broken_clause_is_told_on_its_line_and_is_a_failure(command, monkeypatch):
    monkeypatch.setattr(checking, "check_contract", lambda name: check_contract(name, clause="it says"))
    code, lines, errors = command(SOUND.replace('"""Leaves', '\'\'\n"""Leaves'))
    assert code == 1
    broken, _, problem, clauses = [line for line in lines if not line.startswith("kept ")]
    assert broken == "broken  it says what it does"
    assert problem.startswith("give its module a docstring")
    assert clauses == "  breaks: it says what it does"
    assert errors[0].startswith("error: 'mine' breaks 1 of ")


CRASH = """
@toolkit.hookimpl
def measure(model):
    return {"norm": total(model)}

def total(model):
    for layer in model.children():
        layer.no_such_thing()
    return 0.0
"""


def test_one_bug_is_shown_once_with_its_clauses_and_its_line(command, monkeypatch):
    monkeypatch.setattr(checking, "check_contract", lambda name: check_contract(name, clause="left alone"))
    code, lines, errors = command(SOUND + CRASH)
    assert code == 1
    report = lines[lines.index("") :]
    assert len(report) == 4, report
    assert report[1].startswith("'mine' (mine-plugin 1.0) failed in measure with AttributeError: ")
    assert "log" not in report[1]
    assert report[2] == "  plugin_mine.py:15 in total: layer.no_such_thing()"
    assert report[3] == (
        "  breaks: global hooks of torch are left alone; global state is left alone and nothing is printed"
    )
    assert errors == ["error: 'mine' breaks 2 of 3 clauses; the 1 cause is listed above"]


COUNTS = """
@toolkit.hookimpl
def measure(model):
    return {"layers": len(list(model.children())), "ones": 1, "text": toolkit.Note("")}
"""


@pytest.mark.parametrize(
    ("declared", "hints"),
    [
        ("", ["hint    describe layers, ones in `numbers`"]),
        ('{"ones": toolkit.Number("ones"), "layer": toolkit.Number("layers")}',
         ["hint    describe layers in `numbers`, which describes layer instead"]),
        ('{"*": toolkit.Number("*"), "never": toolkit.Number("never")}', []),
    ],
)  # fmt: skip
def test_numbers_without_a_description_are_a_hint(command, monkeypatch, declared, hints):
    monkeypatch.setattr(checking, "check_contract", lambda name: check_contract(name, clause="says what"))
    code, lines, _ = command(SOUND + COUNTS + (f"\nnumbers = {declared}\n" if declared else ""))
    assert code == 0
    assert lines == ["kept    it says what it does", *hints]


@pytest.mark.parametrize(
    "source", [SOUND, OBSERVER, MEASURES, SOUND.replace("return model", "raise toolkit.TechniqueError('no')") + COUNTS]
)
def test_where_no_technique_measures_a_number_there_is_no_hint(make_plugin, source):
    make_plugin("mine", source)
    assert checking.undescribed_numbers("mine") == ""


def test_toy_models_of_a_clause_are_listed_together(command, monkeypatch):
    monkeypatch.setattr(checking, "check_contract", lambda name: check_contract(name, clause="survives saving"))
    _, lines, errors = command(SOUND.replace("return model", "return model.no_such_thing()"))
    assert lines[-1] == "  breaks: the result survives saving [mlp, cnn, lstm, transformer, tied, outputs]"
    assert lines[-2] == "  plugin_mine.py:7 in optimize: return model.no_such_thing()"
    assert errors == ["error: 'mine' breaks 6 of 6 clauses; the 1 cause is listed above"]


@pytest.mark.parametrize("source", [pytest.param(OBSERVER, marks=pytest.mark.slow), MEASURES])
def test_what_observes_or_only_measures_is_checked_as_a_run_wide_plugin(command, source):
    code, lines, _ = command(source)
    assert code == 0
    assert "kept    it changes nothing" in lines
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            SOUND.replace("optimize", "optimise"),
            "marks 'optimise' as a hook, but no hook has that name; did you mean 'optimize'?",
        ),
        (
            OBSERVER.replace("(row)", "(rwo)"),
            "on_row has no argument 'rwo'; did you mean 'row'?",
        ),
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError"),
    ],
)
@pytest.mark.smoke
def test_what_cannot_be_loaded_is_one_sentence(command, source, said):
    code, lines, errors = command(source)
    assert (code, lines, len(errors)) == (1, [], 1)
    assert errors[0].startswith("error: 'mine' (mine-plugin 1.0)")
    assert said in errors[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--contract"], "error: --contract requires a plugin; pass its NAME"),
        (["min", "--contract"], "error: no technique 'min' is installed; did you mean 'mine'?"),
    ],
)
def test_a_wrong_name_is_a_mistake_of_the_user(command, arguments, said):
    assert command(SOUND, *arguments) == (2, [], [said])


@pytest.mark.parametrize("error", ["assert len(inputs) == 3", "raise SystemExit"])
def test_a_module_that_ends_without_a_word_breaks_a_clause(make_plugin, error):
    layer = f"class Odd(nn.Identity):\n    def forward(self, inputs):\n        {error}\n"
    source = SOUND.replace("import toolkit\n", f"import toolkit\nfrom torch import nn\n{layer}")
    make_plugin("mine", source.replace("return model", "model.append(Odd()); return model"))
    told = {verdict.clause: verdict.problem for verdict in check_contract("mine", clause="cloned")}
    assert told["the result can be cloned"]


def test_a_python_without_assertions_does_not_call_anything_kept(monkeypatch):
    monkeypatch.setattr(checking, "sys", SimpleNamespace(flags=SimpleNamespace(optimize=1)))
    with pytest.raises(ToolkitError, match="requires assertions, which python -O skips"):
        next(check_contract("pruning"))


def test_the_list_has_a_line_for_each_with_its_distribution_version_and_summary(command):
    code, lines, _ = command("import nowhere_at_all", "--")
    assert code == 0
    [line] = [line for line in lines if line.startswith("mine ")]
    assert line.split(maxsplit=3) == ["mine", "mine-plugin", "1.0", "Made for a test."]
    assert {"distillation", "mlflow", "profile", "pruning", "quantization", "tensorboard"} <= {
        line.split()[0] for line in lines
    }
