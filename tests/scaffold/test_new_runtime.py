"""`toolkit new runtime` writes a distribution whose runtime keeps the contract and whose recipe runs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import nn

import toolkit
from toolkit.cli import main
from toolkit.exports.files import export_model
from toolkit.exports.judge import compare
from toolkit.hooks.loading import load
from toolkit.testing import RuntimeContract, toy_data, toy_mlp

ROOT = Path(__file__).parents[2]


@pytest.fixture
def new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["new", "runtime", *arguments])


@pytest.fixture
def arrays(new, make_plugin):
    """The runtime `arrays` as it was written, installed; its folder."""
    assert new("arrays").exit_code == 0
    make_plugin("arrays", Path("toolkit-arrays/toolkit_arrays.py").read_text())
    return Path("toolkit-arrays")


@pytest.mark.smoke
def test_the_files(new):
    result = new("flat-file")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("toolkit-flat-file is written. Next:\n\n  cd toolkit-flat-file\n")
    paths = [path for path in Path().rglob("*") if path.is_file()]
    assert sorted(path.relative_to("toolkit-flat-file").as_posix() for path in paths) == [
        "README.md",
        "pyproject.toml",
        "recipes/flat-file.toml",
        "tests/test_toolkit_flat_file.py",
        "toolkit_flat_file.py",
    ]
    lines = [line for path in paths for line in path.read_text().splitlines()]
    assert not [line for line in lines if "{{" in line or len(line) > 120]
    project = tomllib.loads(Path("toolkit-flat-file/pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"toolkit": {"flat-file": "toolkit_flat_file"}}


def test_what_it_writes_is_well_formatted(new):
    assert new("flat-file").exit_code == 0
    # The hook `open` is called with all of its arguments, whether it needs them or not.
    for command in (["check", "--ignore", "RUF012,ARG001"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), "."]
        done = subprocess.run(ruff, cwd="toolkit-flat-file", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_it_uses_public_names_only(new):
    assert new("arrays").exit_code == 0
    text = "\n".join(path.read_text() for path in Path("toolkit-arrays").rglob("*.*") if path.is_file())
    used = set(re.findall(r"\btoolkit\.(?:testing[.:])?([a-zA-Z_]\w*)", text))
    used |= set(re.findall(r"^from toolkit\.testing import (\w+)", text, flags=re.MULTILINE))
    assert used - {*toolkit.__all__, *toolkit.testing.__all__} == set()


def test_names_that_cannot_be(new):
    assert "'Flat' is not a name for a runtime; use lower-case letters" in new("Flat").stderr
    assert "'onnxruntime' is already provided by torch-optimization-toolkit " in new("onnxruntime").stderr
    assert not [*Path().iterdir()]


def test_its_file_gives_the_answers_of_the_model(arrays, tmp_path):
    plugin, model, data = load("arrays", "runtime"), toy_mlp().eval(), toy_data(64)
    exported = export_model(plugin, plugin.params_class(), model, data, tmp_path / "files")
    with exported.opened(1, ["toolkit", "plugin_arrays"]) as file:
        assert compare(file, model, data, "test").is_close


def test_a_model_that_it_cannot_export_is_refused_with_the_layer(arrays, tmp_path):
    plugin, model = load("arrays", "runtime"), nn.Sequential(nn.Flatten(), nn.Tanh())
    with pytest.raises(toolkit.TechniqueError, match=r"1 \(Tanh\) cannot be exported; only Flatten, ReLU and Linear"):
        export_model(plugin, plugin.params_class(), model, toy_data(64), tmp_path / "files")


@pytest.mark.slow
def test_the_recipe_runs(arrays, recipe_run):
    outcome = recipe_run((arrays / "recipes" / "arrays.toml").read_text())
    assert outcome.error == ""
    baseline, _, file = outcome.rows
    assert (file.runtime, file["arrays.layers"], file["file_agreement"]) == ("arrays", 2, 1)
    assert file["size_bytes"] < baseline["size_bytes"]


@pytest.mark.slow
class TestContract(RuntimeContract):
    """The contract, kept by the runtime as it was written."""

    plugin = "arrays"

    @pytest.fixture(autouse=True)
    def _installed(self, arrays):
        return arrays
