"""What the numbers of plugins mean: declared by the plugin, found for every number that was measured, in the report."""

import json

import pytest

import toolkit
from toolkit.report.compare import compare
from toolkit.report.page import render
from toolkit.report.validation_series import validation_series
from toolkit.runner.technique_numbers import description_of
from toolkit.testing import run_text

EVERYTHING = """
[[stages]]
technique = "distillation"
params = { teachers = ["reference", "reference"] }
finetune = { epochs = 1 }
[[stages]]
technique = "pruning"
with = [{ technique = "pruning", params = { sparsity = 0.6 } }]
[[stages]]
technique = "rewind"
[[stages]]
technique = "bias-correction"
[[stages]]
technique = "codebook"
[[stages]]
technique = "quantization"
params = { max_drop = 100, arithmetic = "int8" }
"""

MEASURES = """
import toolkit

@toolkit.hookimpl
def measure():
    return {"share": 0.25}
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_text(EVERYTHING, tmp_path_factory.mktemp("described"))


def test_every_number_of_the_shipped_techniques_is_described(outcome):
    keys = {
        key
        for row in outcome.rows
        for key, value in row.values.items()
        if "." in key and isinstance(value, (int, float))
    }
    assert len(keys) > 12
    assert keys == outcome.report.numbers.keys()
    assert all(number.label and number.explanation for number in outcome.report.numbers.values())


def test_a_family_of_numbers_and_a_technique_that_comes_twice_in_a_stage(outcome):
    numbers = outcome.report.numbers
    assert numbers["distillation.agreement_2"].label == "agreement with teacher 2"
    assert "student and teacher 2 give" in numbers["distillation.agreement_2"].explanation
    assert numbers["bias-correction.right_0_before"].label == "class 0 before"
    assert numbers["with.1.pruning.sparsity"] == numbers["pruning.sparsity"]


def test_descriptions_are_in_json_table_markdown_and_page(outcome):
    content = json.loads((outcome.directory / "report.json").read_text())
    assert content["numbers"]["quantization.output_error"]["label"] == "output error"
    report = toolkit.Report.read(outcome.directory)
    assert report == outcome.report
    line = "2 pruning: zeros "
    assert line in str(report)
    assert line in (outcome.directory / "report.md").read_text()
    page = render(report)
    assert 'title="fraction of the weights in all pruned layers that are zero (fraction; higher is better); ' in page


def test_units_are_shown(recipe_run, install):
    @toolkit.hookimpl
    def measure():
        return {"table_bytes": 62_900, "share": 0.25, "pause": 3.5, "plain": 7}

    numbers = {
        "table_bytes": toolkit.Number("table", unit="bytes"),
        "share": toolkit.Number("share of zeros", unit="fraction"),
        "pause": toolkit.Number("pause", unit="ms"),
        "never_measured": toolkit.Number("nothing"),
    }
    install("mine", measure=measure, numbers=numbers)
    outcome = recipe_run('[[stages]]\ntechnique = "mine"')
    assert "1 mine: table 62.9 kB, share of zeros 25.00 %, pause 3.5 ms" in str(outcome.report)
    assert outcome.report.numbers.keys() == {"mine.table_bytes", "mine.share", "mine.pause"}
    assert 'title="mine.plain in report.json">plain</td><td>7</td>' in render(outcome.report)
    other = recipe_run('[[stages]]\ntechnique = "mine"\nfinetune = { epochs = 1 }', output="other")
    texts = {number.name: number.first for number in compare(outcome.directory, other.directory).numbers}
    assert texts["mine.share"] == "25.00 %"


@pytest.mark.parametrize("table", ['[[stages]]\ntechnique = "validation_x"', '[[plugins]]\nname = "validation_x"'])
def test_a_plugin_may_be_named_like_a_series_of_the_validation(recipe_run, make_plugin, table):
    make_plugin("validation_x", MEASURES)
    outcome = recipe_run(f'{table}\n[[stages]]\ntechnique = "pruning"\nfinetune = {{ epochs = 1 }}')
    assert 0.25 in [row.get("validation_x.share") for row in outcome.rows]
    report = toolkit.Report.read(outcome.directory)
    assert report == outcome.report
    assert [set(series) for series in validation_series(report).values()] == [{"loss", "accuracy"}] * 2


NUMBERS = ["text", {"share": "a label"}, {1: toolkit.Number("share")}, [toolkit.Number("share")]]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_anything_else_is_refused(recipe_run, install, numbers):
    with pytest.raises(
        toolkit.TechniqueError, match=r"`numbers` must be a dictionary of toolkit.Number by name, found "
    ):
        install("mine", measure=toolkit.hookimpl(lambda: {}), numbers=numbers)


def test_exact_names_come_first_and_others_in_their_order():
    declared = {"a_*": toolkit.Number("family *"), "a_b": toolkit.Number("member"), "*": toolkit.Number("rest")}
    labels = [number and number.label for number in (description_of(declared, name) for name in ("a_b", "a_c", "d"))]
    assert labels == ["member", "family c", "rest"]
    assert description_of({"a_*": toolkit.Number("family *")}, "a_") is None
