"""A metric is one module: a file in the package, and table, page, JSON and diff have it."""

import json
import re
import sys
from textwrap import dedent

import pytest

import toolkit.metrics
from toolkit.report.compare import compare
from toolkit.report.page import render
from toolkit.report.reader import read_report

MODULE = '''
    """How many linear layers a model has."""

    from torch import nn

    from toolkit.metrics.support.metric import Metric, Quantity


    def linear_layers(subject):
        return {"linear_layers": sum(isinstance(module, nn.Linear) for module in subject.model.modules())}


    METRIC = Metric(
        linear_layers,
        (Quantity("linear_layers", lambda count: f"{count} pcs", "number of linear layers", "pieces", minimum=1),),
    )
'''
RECIPE = """
    [[stages]]
    technique = "pruning"
"""


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """Adds one file to the package, as somebody would who writes a metric."""
    folder = tmp_path / "more_metrics"
    folder.mkdir()
    (folder / "linear_layers.py").write_text(dedent(MODULE))
    monkeypatch.setattr(toolkit.metrics, "__path__", [*toolkit.metrics.__path__, str(folder)])
    yield
    sys.modules.pop("toolkit.metrics.linear_layers", None)


def test_one_file_is_enough(metric, recipe_run, tmp_path):
    first = recipe_run(dedent(RECIPE), output="first")
    second = recipe_run(dedent(RECIPE), output="second")

    assert first.rows[0]["linear_layers"] == 2
    assert json.loads((first.directory / "report.json").read_text())["rows"][1]["linear_layers"] == 2
    assert re.search(r"\| +pieces \|", (first.directory / "report.md").read_text())
    assert "2 pcs" in (first.directory / "report.md").read_text()
    assert 'title="number of linear layers">pieces</th>' in render(first.report)
    numbers = [
        number for number in compare(first.directory, second.directory).numbers if number.name == "linear_layers"
    ]
    assert [(number.first, number.second, number.outcome) for number in numbers] == [("2 pcs", "2 pcs", "within")] * 2


def test_a_report_with_a_metric_that_is_not_here_is_read(metric, recipe_run, monkeypatch):
    run = recipe_run(dedent(RECIPE))
    monkeypatch.undo()
    report = read_report(run.directory)
    assert report.rows[1]["linear_layers"] == 2
    assert "pieces" not in str(report)


def test_an_impossible_value_is_refused_with_its_place(metric, recipe_run):
    run = recipe_run(dedent(RECIPE))
    path = run.directory / "report.json"
    path.write_text(path.read_text().replace('"linear_layers": 2', '"linear_layers": 0', 1))
    with pytest.raises(toolkit.ToolkitError, match=r"rows\.0\.linear_layers: must be at least 1, found 0"):
        read_report(run.directory)
