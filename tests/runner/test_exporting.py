"""Exports of a recipe: rows of the report like any other, repeated by the recipe of the run, resumed after a stop."""

import json

import pytest

from toolkit.recipe.read import read_recipe
from toolkit.report.page import render
from toolkit.report.verdicts import verdict
from toolkit.runner.export_attempt import Attempt
from toolkit.testing import run_text

TEXT = """
[[stages]]
technique = "quantization"
params = { arithmetic = "int8", max_drop = 100 }
[[exports]]
runtime = "onnxruntime"
params = { opset = 22 }
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return run_text(TEXT, tmp_path_factory.mktemp("exported"))


def test_an_export_is_a_row(outcome):
    row = outcome.rows[-1]
    assert [row.stage for row in outcome.rows] == ["baseline", "quantization", "onnxruntime"]
    assert row.runtime == "onnxruntime"
    assert row["size_bytes"] == (outcome.directory / "exports" / "onnxruntime" / "model.onnx").stat().st_size
    assert row["accuracy"] == outcome.rows[1]["accuracy"]
    assert row["output_error"] < 1e-5
    assert row.notes["onnxruntime.arithmetic"].text == "2 of 2 layers multiply in integers"


def test_the_row_is_in_table_page_and_json(outcome):
    written = json.loads((outcome.directory / "report.json").read_text())
    assert written["rows"][-1]["runtime"] == "onnxruntime"
    assert "2 of 2 layers multiply in integers" in (outcome.directory / "report.md").read_text()
    assert "After one stage and an export to onnxruntime" in verdict(outcome.report)
    assert "2 of 2 layers multiply in integers" in render(outcome.report)


def test_the_resolved_recipe_repeats_the_export(outcome):
    (export,) = read_recipe(outcome.directory / "recipe.toml").exports
    assert export.start == 1
    assert export.use.params.opset == 22


@pytest.mark.slow
def test_a_run_interrupted_during_the_export_resumes(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "verify", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_text(TEXT, tmp_path)
    assert not list((tmp_path / "run").glob("exports/*"))
    outcome = run_text(TEXT, tmp_path)
    assert outcome.rows[-1].runtime == "onnxruntime"
    # A stage that had been measured again would have another latency.
    done = [json.loads(line.partition("done: ")[2]) for line in outcome.log.splitlines() if ") done: " in line]
    assert [row["stage"] for row in done] == [*["baseline", "quantization"] * 2, "onnxruntime"]
    assert [row["latency_ms"] for row in done[:2]] == [row["latency_ms"] for row in done[2:4]]


def test_a_model_that_cannot_be_exported_ends_the_run_in_a_sentence(tmp_path):
    outcome = run_text(TEXT.replace('arithmetic = "int8"', 'engine = "torch"'), tmp_path)
    assert outcome.error.startswith("export 'onnxruntime': 'onnxruntime' (")
    assert "layer '1' uses the arithmetic of engine 'torch'" in outcome.error
    assert outcome.exit_code == 1
