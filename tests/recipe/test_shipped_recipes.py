"""Every shipped recipe: short, explained, and running from end to end on a small slice of the data."""

import pytest

import toolkit
from toolkit.recipe.shipped import shipped, summary

RECIPES = shipped()


def test_the_shipped_recipes():
    assert set(RECIPES) >= {"mnist", "distillation", "hints", "pruning", "quantization"}


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_short_and_opens_with_a_sentence(name):
    assert len(RECIPES[name].read_text().splitlines()) <= 40
    assert summary(RECIPES[name]).endswith(".")


@pytest.mark.parametrize("name", RECIPES)
def test_it_runs_on_a_small_slice(name, tmp_path):
    overrides = {"data.args.samples": 256, "measure.budget": 0.3}
    report = toolkit.run(name, overrides, output=tmp_path / "run")
    stages = RECIPES[name].read_text().count("[[stages]]")
    assert len(report.rows) == stages + 1
    assert all(row["samples"] == 256 for row in report.rows)
    toolkit.load(tmp_path / "run")
