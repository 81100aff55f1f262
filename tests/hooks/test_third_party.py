"""Three distributions as others would ship them (tests/third_party): from source here, as wheels in a slow test."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from few_toys import FewToys
from torch import nn

from toolkit.hooks import loading as techniques
from toolkit.testing import ObserverContract, TechniqueContract
from toolkit.testing.distributions import write_distribution

FOLDER = Path(__file__).parents[1] / "third_party"
PROJECTS = ("lowrank", "grouplasso", "calibration")
RECIPE = (FOLDER / "recipe.toml").read_text()


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    """The three as pip would leave them, with the metadata of their pyproject.toml."""
    for name in PROJECTS:
        project = tomllib.loads((FOLDER / name / "pyproject.toml").read_text())["project"]
        folder = tmp_path / "metadata"
        write_distribution(folder, project["name"], project["entry-points"]["toolkit"], project["version"])
        monkeypatch.syspath_prepend(folder)
        monkeypatch.syspath_prepend(FOLDER / name)
    techniques.load.cache_clear()
    yield
    techniques.load.cache_clear()


class TestLowRank(FewToys, TechniqueContract):
    technique = "lowrank"
    params: ClassVar[dict[str, Any]] = {"energy": 0.6}


class TestGroupLasso(FewToys, TechniqueContract):
    technique = "grouplasso"


class TestCalibration(ObserverContract):
    plugin = "calibration"


@pytest.mark.smoke
def test_they_chain_with_the_built_in_ones(recipe_run):
    outcome = recipe_run(RECIPE)
    assert outcome.error == ""
    assert [row.stage for row in outcome.rows] == ["baseline", "grouplasso", "lowrank", "pruning", "quantization"]
    assert all(0 <= row["calibration.error"] <= 1 for row in outcome.rows)
    assert outcome.rows[2]["parameters"] < outcome.rows[1]["parameters"]
    assert outcome.rows[2]["lowrank.layers"] >= 1
    assert outcome.rows[2]["macs"] < outcome.rows[1]["macs"]
    assert outcome.rows[3]["sparsity"] > 0.4  # of all parameters, those that are not pruned included
    assert outcome.rows[4]["nonzero"] <= outcome.rows[3]["nonzero"]
    assert outcome.rows[4]["accuracy"] > 0.9
    assert outcome.rows[3]["pruning.sparsity"] == pytest.approx(0.5, abs=0.01)


def test_two_layers_of_full_rank_give_what_one_gave():
    import toolkit_lowrank

    for layer, inputs in (
        (nn.Linear(12, 9), torch.randn(4, 12)),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.randn(2, 3, 8, 8)),
    ):
        made = toolkit_lowrank.factorized(layer, 1.0)
        assert torch.allclose(made(inputs), layer(inputs), atol=1e-5)
        assert toolkit_lowrank.rank_of(toolkit_lowrank.factorized(layer, 0.5)) < toolkit_lowrank.rank_of(made)


def test_zeros_of_an_earlier_stage_are_not_factorized_away(recipe_run):
    text = '[[stages]]\ntechnique = "pruning"\n[[stages]]\ntechnique = "lowrank"\n'
    assert "refused in optimize: there is no layer to factorize (1: its zeros would be lost" in recipe_run(text).error


def test_the_regularizer_pushes_channels_to_zero(recipe_run):
    text = '[[stages]]\ntechnique = "grouplasso"\nparams = { strength = %s }\nfinetune = { epochs = 20, lr = 1e-2 }\n'
    weak, strong = (recipe_run(text % strength, output=strength) for strength in ("0.0", "0.01"))
    assert strong.rows[1]["grouplasso.small_channels"] > weak.rows[1]["grouplasso.small_channels"] + 0.2


def test_a_calibrated_model_has_no_error():
    import toolkit_calibration

    confidence = torch.tensor([0.75] * 4 + [0.5] * 2)
    correct = torch.tensor([True, True, True, False, True, False])
    assert toolkit_calibration.calibration_error(confidence, correct, 10) == pytest.approx(0)
    assert toolkit_calibration.calibration_error(confidence, ~correct, 10) == pytest.approx(0.5 * 4 / 6)


CONTRACTS = """
from toolkit.testing import ObserverContract, TechniqueContract

class TestLowRank(TechniqueContract):
    technique = "lowrank"
    params = {"energy": 0.6}

class TestGroupLasso(TechniqueContract):
    technique = "grouplasso"

class TestCalibration(ObserverContract):
    plugin = "calibration"

def test_fixture(recipe_run):
    assert recipe_run('[[stages]]\\ntechnique = "lowrank"').error == ""
"""


@pytest.mark.slow
def test_as_wheels_in_a_fresh_environment_they_do_the_same(tmp_path):
    root = FOLDER.parents[1]
    source = tmp_path / "toolkit-source"
    shutil.copytree(root, source, ignore=shutil.ignore_patterns(".git", "*.egg-info", "runs", "build", "__pycache__"))
    projects = [shutil.copytree(FOLDER / name, tmp_path / name) for name in PROJECTS]
    wheels = tmp_path / "wheels"
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run([sys.executable, "-m", "pip", *build, str(source), *map(str, projects)], check=True)
    assert len(list(wheels.iterdir())) == 4

    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = Path(next((tmp_path / "venv" / "lib").iterdir())) / "site-packages"
    (packages / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # torch, once on this disk
    install = ["-m", "pip", "install", "--no-deps", "--force-reinstall", *map(str, wheels.iterdir())]
    subprocess.run([python, *install], check=True)

    work = tmp_path / "work"
    work.mkdir()
    (work / "recipe.toml").write_text(RECIPE)
    (work / "test_contracts.py").write_text(CONTRACTS)
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    run = [python, "-m", "toolkit", "run", "recipe.toml"]
    done = subprocess.run(run, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "lowrank" in done.stdout
    where = [python, "-c", "import toolkit, toolkit_lowrank; print(toolkit.__file__, toolkit_lowrank.__file__)"]
    found = subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.count(str(packages)) == 2
    tests = [python, "-m", "pytest", "-q", "test_contracts.py"]
    done = subprocess.run(tests, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
