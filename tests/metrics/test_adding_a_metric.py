"""A metric is one module: a file in the package, and table, page, JSON and diff have it."""

import json
import re
import shutil
import sys
from textwrap import dedent
from types import SimpleNamespace

import pytest

import toolkit.metrics
from toolkit.metrics import all_quantities
from toolkit.report.compare import compare
from toolkit.report.compare_text import as_text as comparison_text
from toolkit.report.page import render
from toolkit.report.reader import read_report
from toolkit.report.table import as_markdown, as_text
from toolkit.testing import run_text, toy_mlp

MODULE = '''
    """Number of linear layers."""

    from torch import nn

    from toolkit.metrics.support.metric import EXACT, Bounds, Metric, Quantity, StageBars


    def linear_layers(subject):
        return {"linear_layers": sum(isinstance(module, nn.Linear) for module in subject.model.modules())}


    METRIC = Metric(
        linear_layers,
        (
            Quantity(
                "linear_layers",
                lambda count: f"{count} pcs",
                "number of linear layers",
                unit="pieces",
                better="lower",
                title="linear",
                bounds=Bounds(1),
                comparison=EXACT,
                bars=StageBars("linear", "Linear layers", "pieces"),
            ),
        ),
    )
'''
INSTALLED = list(toolkit.metrics.__path__)
ONE_STAGE = '[[stages]]\ntechnique = "pruning"'


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """Adds one file to the package and changes nothing else."""
    folder = tmp_path_factory.mktemp("more_metrics")
    (folder / "linear_layers.py").write_text(dedent(MODULE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolkit.metrics, "__path__", [*INSTALLED, str(folder)])
        yield
    sys.modules.pop("toolkit.metrics.linear_layers", None)


@pytest.fixture(scope="module")
def run(metric, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.metrics.memory._start", lambda: None)
        outcome = run_text(ONE_STAGE, tmp_path_factory.mktemp("runs"))
    assert outcome.error == ""
    return outcome


def copy_with(run, folder, before, after):
    """Copy a run directory into a folder, with a change in the last row of its report."""
    copy = shutil.copytree(run.directory, folder / "copy")
    content = json.loads((copy / "report.json").read_text())
    assert content["rows"][-1]["linear_layers"] == before
    content["rows"][-1]["linear_layers"] = after
    (copy / "report.json").write_text(json.dumps(content))
    return copy


def test_rows_and_json_have_it(run):
    assert [row["linear_layers"] for row in run.rows] == [2, 2]
    content = json.loads((run.directory / "report.json").read_text())
    assert [row["linear_layers"] for row in content["rows"]] == [2, 2]


def test_the_table_has_a_column_of_it(run):
    text = as_text(run.report, 200)
    assert " linear" in text.splitlines()[0]
    assert " 2 pcs" in text.splitlines()[3]
    assert re.search(r"\| +linear \|", (run.directory / "report.md").read_text())


def test_the_page_has_its_column_its_explanation_and_its_chart(run):
    page = render(run.report)
    assert '<th scope="col" title="number of linear layers (pieces; lower is better)">linear</th>' in page
    assert "<h3>Linear layers</h3>" in page
    assert "stages-linear" in run.report.plot()


def test_a_difference_between_two_runs_is_shown(run, tmp_path):
    comparison = compare(run.directory, copy_with(run, tmp_path, 2, 3))
    assert comparison.of("moved") == [("1 pruning", "linear_layers", "2 pcs", "3 pcs", "moved")]
    assert re.search(r"1 pruning +linear_layers +2 pcs +3 pcs", comparison_text(comparison))


def test_an_impossible_value_is_an_error_with_its_place(run, tmp_path):
    with pytest.raises(toolkit.ToolkitError, match=r"rows\.1\.linear_layers: must be at least 1, found 0"):
        read_report(copy_with(run, tmp_path, 2, 0))


def test_a_number_whose_metric_is_not_installed_is_shown_plainly(run, tmp_path, monkeypatch):
    copy = copy_with(run, tmp_path, 2, 3)
    monkeypatch.setattr(toolkit.metrics, "__path__", INSTALLED)
    report = read_report(copy)
    assert report.rows[1]["linear_layers"] == 3
    assert re.search(r"\| +linear_layers \|", as_markdown(report))
    assert 'title="the metric is not installed">linear_layers</th>' in render(report)
    assert "linear_layers" not in as_text(report, 80).splitlines()[0]
    assert "linear_layers" in as_text(report, 200).splitlines()[0]
    differing = compare(run.directory, copy).of("unknown")
    assert ("1 pruning", "linear_layers", "2", "3", "unknown") in differing


def test_every_number_of_the_toolkit_is_explained():
    assert [quantity.key for quantity in all_quantities().values() if not quantity.explanation] == []


def test_the_example_of_the_documentation_works():
    example = toolkit.metrics.__doc__.partition("::\n\n")[2].partition("\n\nKeys")[0]
    module = {}
    exec(dedent(example), module)
    assert module["METRIC"].measure(SimpleNamespace(model=toy_mlp())) == {"depth": 4}
