"""Every shipped recipe: short, explained, and running from end to end on a small slice of the data."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolkit
from toolkit.recipe.shipped import shipped, summary

RECIPES = shipped()


def test_the_shipped_recipes():
    assert set(RECIPES) >= {"mnist", "distillation", "hints", "pruning", "channels", "codebook", "low-rank"}
    assert set(RECIPES) >= {"quantization", "quantization-aware", "static", "criteria", "resnet18"}


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_short_and_opens_with_a_sentence(name):
    assert len(RECIPES[name].read_text().splitlines()) <= 40
    assert summary(RECIPES[name]).endswith(".")


def short_trainings(path: Path) -> Iterator[tuple[str, int]]:
    """Two epochs wherever the recipe trains for more."""
    recipe = tomllib.loads(path.read_text())
    trainings = [("model.training", recipe["model"].get("training"))]
    trainings += [
        (f"stages.{number}.finetune", stage.get("finetune")) for number, stage in enumerate(recipe["stages"], start=1)
    ]
    for place, training in trainings:
        if training and training["epochs"] > 2:
            yield f"{place}.epochs", 2


def marked(name: str):
    """Two recipes that are not slow: the composite one, which draws its page, and one with a codebook."""
    if name == "mnist":
        return pytest.param(name, marks=[pytest.mark.smoke, pytest.mark.page])
    return pytest.param(name, marks=[] if name == "papers/deep-compression-lenet-300-100" else [pytest.mark.slow])


ELSEWHERE = ("cifar/", "real/", "resnet18")  # recipes that need photos or packages have tests of their own


@pytest.mark.parametrize("name", [marked(name) for name in RECIPES if not name.startswith(ELSEWHERE)])
def test_it_runs_on_a_small_slice(name, tmp_path):
    overrides = {"data.args.samples": 256, "measure.budget": 0.02, **dict(short_trainings(RECIPES[name]))}
    report = toolkit.run(name, overrides, output=tmp_path / "run")
    text = RECIPES[name].read_text()
    assert len(report.rows) == 1 + text.count("[[stages]]") + text.count("[[exports]]")
    assert all(row["samples"] == 256 for row in report.rows)
    toolkit.load(tmp_path / "run")
