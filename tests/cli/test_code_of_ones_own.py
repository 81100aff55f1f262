"""Commands for a run with Python code of one's own: one error lists all of it, with the command that names it."""

import shlex
from itertools import pairwise
from textwrap import dedent

import pytest
from click.testing import CliRunner

import toolkit
from toolkit.cli import main

CODE = """
    from torch import nn
    from toolkit.tasks import Classification
    from toolkit.testing import toy_data


    class Block(nn.Sequential):
        pass


    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), Block(nn.Linear(64, 8), nn.ReLU()), nn.Linear(8, 4))


    class Task(Classification):
        pass


    def make():
        return Net()


    def data():
        return toy_data(64)
"""
RECIPE = """
name = "own"
[model]
source = "own.py:make"
[data]
source = "own.py:data"
task = "own.py:Task"
[measure]
budget = 0.02
[[stages]]
technique = "pruning"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run in `runs/own`."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(dedent(CODE))
    (folder / "own.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.metrics.memory._start", lambda: None)
        toolkit.run(folder / "own.toml", output=folder / "runs" / "own")
    return folder


def refusal(*words):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    *mistakes, hint = result.stderr.splitlines()
    assert all(line.startswith("error: ") for line in mistakes)
    assert hint.startswith("hint: if the code is yours, run: ")
    return [*(line.removeprefix("error: ") for line in mistakes), hint]


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "runs/own"),
        ("evaluate", "runs/own/stages/1-pruning", "--allow", "own.py:Net"),
        ("export", "runs/own", "--runtime", "onnxruntime", "--stage", "baseline", "--set", "opset=22"),
        pytest.param(
            ("export", "runs/own", "--runtime", "onnxruntime", "--data", "own.py:data"), marks=pytest.mark.slow
        ),
    ],
    ids=["evaluate", "a class named", "export", "data named"],
)
def test_one_error_has_all_that_is_missing_and_its_command_works(folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    classes, *others, last = refusal(*command)
    assert "own_py_" in classes
    assert len(others) == (1 if "--data" in command else 2)
    program, *words = shlex.split(last.partition("if the code is yours, run: ")[2])
    assert program == "toolkit"
    assert {*command} <= {*words}
    assert words.count("--allow") == (2 if "--allow" in command else 1)  # one more class, or the file with all
    result = CliRunner().invoke(main, [*words, "--budget", "0.02"])
    assert result.exit_code == 0, result.output


def test_a_class_of_an_importable_module_is_named_by_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    (folder / "package.toml").write_text(RECIPE.replace("own.py:make", "own:make"))
    toolkit.run("package.toml", output="runs/package")
    words = shlex.split(refusal("evaluate", "runs/package")[-1])
    allowed = [source for option, source in pairwise(words) if option == "--allow"]
    assert allowed == ["own"]
