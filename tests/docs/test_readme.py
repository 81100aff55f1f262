"""What the README says is what happens, and the pages beside it name what there is."""

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
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
HEADING = re.compile(r"^#+ (.+)", flags=re.MULTILINE)
NETS = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, classes=3):
        super().__init__(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_it_is_short():
    assert len(README.splitlines()) <= 130  # five minutes


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


@pytest.mark.parametrize("page", PAGES)
def test_every_path_it_names_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:toolkit|plugins|recipes|tests|docs)/[\w./*-]*|\w+/\w+\.py)`", text):
        assert list(ROOT.glob(path.rstrip("/"))) or (ROOT / "toolkit" / path).is_file(), path


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in HEADING.findall(text)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = target.partition("#")
        assert (ROOT / path).exists(), target
        assert path or heading in headings, target


def test_the_architecture_gives_every_folder_its_place():
    """The table of ARCHITECTURE.md has the layers of the import contract, in their order."""
    table = re.search(r"^\| folder or module \|.*?\n\n", ARCHITECTURE, flags=re.MULTILINE | re.DOTALL)
    assert table is not None
    rows = [row.split("|")[1] for row in table[0].strip().splitlines()[2:]]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    assert [set(re.findall(r"`(\w+)/?`", row)) for row in rows] == [set(re.split(r"\W+", layer)) for layer in layers]


def test_the_glossary_is_in_alphabetical_order():
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", ARCHITECTURE, flags=re.MULTILINE)
    assert len(words) >= 25
    assert words == sorted(words)


def test_its_picture_is_small_and_loads_nothing():
    picture = (ROOT / "docs" / "images" / "report.svg").read_text(encoding="utf-8")
    assert len(picture.encode()) < 100_000
    assert not re.search(r"<script|<image|href=\"(?!#)|url\((?!#)", picture)


@pytest.mark.slow
def test_its_way_in_works_as_it_is_written(tmp_path):
    """A file with a network, a folder of photos, two commands: to a report."""
    commands = next(block for block in blocks("sh") if "new recipe" in block)
    (tmp_path / "nets.py").write_text(NETS)
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
    assert "After 2 stages, the model is" in done.stdout
    assert (tmp_path / "runs" / "recipe" / "report.html").is_file()
    Net = resolve(f"{tmp_path / 'nets.py'}:Net", "model")
    assert isinstance(toolkit.load(tmp_path / "runs" / "recipe", allow=[Net]), Net)
