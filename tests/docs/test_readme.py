"""What the README says is what happens."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toolkit
from toolkit.hooks import loading as techniques
from toolkit.recipe.read import parse_recipe
from toolkit.sources import resolve

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_it_is_short():
    assert len(README.splitlines()) <= 205  # ten minutes


def test_its_first_block_is_the_two_commands_that_ci_runs():
    first = re.search(r"^```\w*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert first is not None
    assert first[1].splitlines() == [
        "pip install -e . && toolkit run recipes/mnist.toml",
        "pip install -e '.[test]' && pytest",
    ]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.smoke
def test_the_recipe_it_explains_is_the_shipped_one():
    shown, shipped = tomllib.loads(blocks("toml")[0]), tomllib.loads((ROOT / "recipes" / "mnist.toml").read_text())
    assert shown == shipped


def test_its_technique_works_when_pasted(tmp_path, monkeypatch):
    source = next(block for block in blocks("python") if "hookimpl" in block)
    assert len(source.splitlines()) <= 20
    (tmp_path / "pasted.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    pasted = techniques.from_module(__import__("pasted"), "pasted", "pasted 1.0")
    real = techniques.load
    monkeypatch.setattr(
        techniques, "load", lambda name, role="technique": pasted if name == "pasted" else real(name, role)
    )
    recipe = parse_recipe(
        """
        [model]
        source = "toolkit.testing:toy_mlp"
        training = { epochs = 2, lr = 1e-2 }
        [data]
        source = "toolkit.testing:toy_data"
        [measure]
        budget = 0.2
        [[stages]]
        technique = "pasted"
        finetune = { epochs = 1 }
        """,
        "pasted.toml",
        tmp_path,
    )
    report = toolkit.run(recipe, output=tmp_path / "run")
    assert any(name.startswith("pasted.") for name in report.final.values)


@pytest.mark.parametrize("hook", ["prepare", "optimize", "finetune", "resolve", "measure"])
def test_it_shows_the_hooks(hook):
    assert f"{hook}(" in README


def test_every_path_it_names_exists():
    for path in re.findall(r"`((?:toolkit|plugins|recipes|tests)/[\w./*-]*)`", README):
        assert list(ROOT.glob(path.rstrip("/"))), path


@pytest.mark.slow
def test_its_way_in_works_as_it_is_written(tmp_path):
    """A file with a network, a folder of photos, two commands: to a report."""
    nets = next(block for block in blocks("python") if block.startswith("# nets.py"))
    commands = next(block for block in blocks("sh") if "new recipe" in block)
    (tmp_path / "nets.py").write_text(nets)
    generator = np.random.default_rng(0)
    for number, name in enumerate(("apple", "leaf", "sky")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for position in range(20):
            pixels = generator.integers(0, 60, (40, 60, 3)) + np.eye(3)[number] * 150
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{position}.jpg")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", commands], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "After 2 stages the model is" in done.stdout
    assert (tmp_path / "runs" / "recipe" / "report.html").is_file()
    Net = resolve(f"{tmp_path / 'nets.py'}:Net", "model")
    assert isinstance(toolkit.load(tmp_path / "runs" / "recipe", allow=[Net]), Net)
