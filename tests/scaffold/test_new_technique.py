"""`toolkit new technique` writes a distribution that installs, keeps the contract and passes its own tests."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

import toolkit
from toolkit.cli import main
from toolkit.hooks.source import first_paragraph

ROOT = Path(__file__).parents[2]


@pytest.fixture
def new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["new", "technique", *arguments])


@pytest.mark.smoke
def test_the_files(new):
    result = new("weight-clip")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("toolkit-weight-clip is written. Next:\n\n  cd toolkit-weight-clip\n")
    files = sorted(path.relative_to("toolkit-weight-clip").as_posix() for path in Path().rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "pyproject.toml",
        "recipes/weight-clip.toml",
        "tests/test_toolkit_weight_clip.py",
        "toolkit_weight_clip.py",
    ]
    assert "When it does not help" in Path("toolkit-weight-clip/README.md").read_text()
    assert not [
        line
        for path in Path().rglob("*.*")
        if path.is_file()
        for line in path.read_text().splitlines()
        if "{{" in line or len(line) > 120
    ]


def test_what_it_writes_is_well_formatted(new):
    assert new("weight-clip").exit_code == 0
    for command in (["check", "--ignore", "RUF012"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), "."]
        done = subprocess.run(ruff, cwd="toolkit-weight-clip", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_recipe_runs_with_the_module(new, make_plugin, recipe_run):
    assert new("clip", "--output", "elsewhere").exit_code == 0
    make_plugin("clip", Path("elsewhere/toolkit_clip.py").read_text())
    outcome = recipe_run(Path("elsewhere/recipes/clip.toml").read_text())
    assert outcome.error == ""
    assert 0 < outcome.rows[1]["clip.at_limit"] < 0.2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Weight", "'Weight' is not a name for a technique; use lower-case letters, digits and single hyphens"),
        ("../up", "is not a name for a technique"),
        ("a--b", "is not a name for a technique"),
        ("class", "is not a name for a technique"),
        ("9lives", "is not a name for a technique"),
        ("pruning", "'pruning' is already provided by torch-optimization-toolkit "),
    ],
)
def test_names_that_cannot_be(new, name, said):
    result = new(name)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not [*Path().iterdir()]


def test_a_folder_that_exists_is_left_alone(new):
    Path("toolkit-clip").mkdir()
    result = new("clip")
    assert (result.exit_code, [*Path("toolkit-clip").iterdir()]) == (2, [])
    assert result.stderr == "error: toolkit-clip already exists; choose another --output, or delete it\n"


def test_metadata_is_in_one_file_with_version_bounds_and_a_summary_of_its_own(new):
    assert new("weight-clip").exit_code == 0
    project = tomllib.loads(Path("toolkit-weight-clip/pyproject.toml").read_text())["project"]
    major, minor = version("torch-optimization-toolkit").split(".")[:2]
    assert project["dependencies"] == [f"torch-optimization-toolkit>={major}.{minor},<{major}.{int(minor) + 1}"]
    assert project["entry-points"] == {"toolkit": {"weight-clip": "toolkit_weight_clip"}}
    source = Path("toolkit-weight-clip/toolkit_weight_clip.py").read_text()
    assert first_paragraph(ast.get_docstring(ast.parse(source))).startswith("Weight clip: clips outliers")


def test_it_uses_public_names_only(new):
    assert new("clip").exit_code == 0
    text = "\n".join(path.read_text() for path in Path("toolkit-clip").rglob("*.*") if path.is_file())
    used = set(re.findall(r"\btoolkit\.(?:testing[.:])?([a-zA-Z_]\w*)", text)) | set(
        re.findall(r"\bmasks\.(\w+)", text)
    )
    public = {*toolkit.__all__, *toolkit.testing.__all__, *toolkit.masks.__all__}
    assert used - public == set()
