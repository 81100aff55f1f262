"""`toolkit export`: a finished run as files of a runtime, and one sentence for each mistake."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

import toolkit
from toolkit.cli import main
from toolkit.exports.files import export_model
from toolkit.hooks import loading
from toolkit.report.reader import read_report
from toolkit.storage.run_directory import RunDirectory
from toolkit.testing import run_text, toy_data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    text = '[[stages]]\ntechnique = "quantization"\nparams = { arithmetic = "int8", max_drop = 100 }\n'
    return run_text(text, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def export(finished):
    def export(*arguments, data=("--data", "toolkit.testing:toy_data")):
        budget = ("--budget", "0.1")
        return CliRunner().invoke(main, ["export", str(finished.directory), *data, *budget, *arguments])

    return export


def test_the_last_stage_is_exported_and_its_row_is_printed(export, finished):
    result = export("--runtime", "onnxruntime", "--set", "opset=22")
    assert result.exit_code == 0, result.output
    assert "After one stage and an export to onnxruntime" in result.output
    assert "2 of 2 layers multiply in integers" in result.output
    folder = finished.directory / "exports" / "onnxruntime"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "manifest.json", "model.onnx", "run.py"]
    assert "In `model.onnx`, the input is `input` and the output is `" in (folder / "README.md").read_text()
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    script = f"{code}\nprint(outputs.shape)"
    process = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert process.stdout == "(1, 4)\n", process.stderr


def test_a_runtime_that_fails_does_not_lose_the_row_of_another(export, finished, monkeypatch):
    monkeypatch.setenv("PATH", "")
    result = export("--runtime", "aoti", "--runtime", "onnxruntime", "--set", "onnxruntime.opset=22")
    assert result.exit_code == 1
    assert "After one stage and an export to onnxruntime" in result.stdout
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: 'aoti' (torch-optimization-toolkit 0.1.0) refused in export: needs a C++ compiler")
    folder = finished.directory / "exports"
    assert json.loads((folder / "onnxruntime" / "manifest.json").read_text())["params"] == {"opset": 22}
    assert [path.name for path in folder.iterdir()] == ["onnxruntime"]
    assert [row.stage for row in toolkit.Report.read(finished.directory).rows][2:] == ["onnxruntime"]


@pytest.mark.parametrize("options", [(), pytest.param(("--runtime", "all"), marks=pytest.mark.slow)])
def test_all_runtimes_are_those_that_work_here(options, export, finished, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("toolkit.runner.runtimes.installed_runtimes", lambda: ["aoti", "onnxruntime"])
    result = export(*options)
    assert result.exit_code == 0, result.output
    assert [row.stage for row in toolkit.Report.read(finished.directory).rows][2:] == ["onnxruntime"]
    assert "aoti is left out: 'aoti' (torch-optimization-toolkit 0.1.0) refused in export: needs a C++" in result.stdout
    assert f"The files are in {finished.directory / 'exports' / 'onnxruntime'}, their row in" in result.stdout


def test_an_export_without_any_row_changes_nothing(export, finished, monkeypatch):
    monkeypatch.setenv("PATH", "")
    before = (finished.directory / "report.json").read_bytes()
    result = export("--runtime", "aoti")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "needs a C++ compiler" in result.stderr.splitlines()[-1]
    assert (finished.directory / "report.json").read_bytes() == before


@pytest.mark.slow
def test_files_of_all_shipped_runtimes_in_one_command(tmp_path):
    text = '[[stages]]\ntechnique = "quantization"\nparams = { max_drop = 100 }\n'
    folder = run_text(text, tmp_path).directory
    options = ("--data", "toolkit.testing:toy_data", "--budget", "0.1")
    result = CliRunner().invoke(main, ["export", str(folder), *options])
    assert result.exit_code == 0, result.output
    rows = toolkit.Report.read(folder).rows[2:]
    assert [row.stage for row in rows] == ["aoti", "onnxruntime", "openvino", "pt2"]
    assert all(row["runtime_ratio"] or row["latency_ratio"] == {} for row in rows)


@pytest.mark.slow
def test_its_time_is_that_of_the_baselines_row_times_the_ratio(export, finished):
    export("--runtime", "onnxruntime")
    baseline, *_, row = toolkit.Report.read(finished.directory).rows
    for size, ratio in row["latency_ratio"].items():
        assert row["latency_ms"][size] == pytest.approx(baseline["latency_ms"][size] * ratio)


@pytest.mark.slow
@pytest.mark.load
def test_a_baseline_that_takes_another_time_than_in_the_run_leaves_no_ratio(export, finished, monkeypatch):
    monkeypatch.setattr("toolkit.runner.spoilt_times.MAX_DRIFT", 1e-9)
    result = export("--runtime", "onnxruntime")
    row = toolkit.Report.read(finished.directory).rows[-1]
    assert row["latency_ms"]
    assert row["latency_ratio"] == {}
    assert "The machine was too busy to time batch 1 and" in result.output.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.page
def test_another_stage_replaces_the_row_of_the_first_export(export, finished):
    export("--runtime", "onnxruntime")
    result = export("--runtime", "onnxruntime", "--stage", "baseline")
    assert "After an export to onnxruntime" in result.output
    assert "0 of 2 layers multiply in integers" in result.output
    report = toolkit.Report.read(finished.directory)
    assert [row.stage for row in report.rows] == ["baseline", "quantization", "onnxruntime"]
    assert report.start(2) == 0
    for page in ("report.md", "report.html"):
        text = (finished.directory / page).read_text()
        assert "0 of 2 layers multiply in integers" in text
        assert "2 of 2 layers multiply in integers" not in text


@pytest.mark.slow
def test_one_of_two_stages_of_the_same_name_is_chosen_by_its_number(tmp_path):
    pruning = '[[stages]]\ntechnique = "pruning"\nparams = { sparsity = 0.%d }\n'
    folder = run_text(pruning % 5 + pruning % 9, tmp_path).directory
    options = ("--runtime", "onnxruntime", "--data", "toolkit.testing:toy_data", "--budget", "0.1")
    result = CliRunner().invoke(main, ["export", str(folder), *options, "--stage", "pruning"])
    sentence = "has 2 stages named 'pruning'; write --stage 1-pruning or 2-pruning"
    assert (result.exit_code, result.stderr) == (2, f"error: {folder} {sentence}\n")
    result = CliRunner().invoke(main, ["export", str(folder), *options, "--stage", "1-pruning"])
    assert result.exit_code == 0, result.output
    assert toolkit.Report.read(folder).start(3) == 1


def evaluated(folder, *arguments):
    options = ("--data", "toolkit.testing:toy_data", "--budget", "0.1")
    return CliRunner().invoke(main, ["evaluate", str(folder), *options, *arguments])


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The files of the last stage, in a folder of their own."""
    loaded = loading.load("onnxruntime", "runtime")
    model, data = toolkit.load(finished.directory).eval(), toy_data()
    folder = tmp_path_factory.mktemp("files") / "onnxruntime"
    return export_model(loaded, loaded.params_class(), model, data, folder).folder


def test_an_exported_file_is_measured_again(exported, finished, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "onnxruntime")
    result = evaluated(folder)
    assert result.exit_code == 0, result.output
    assert f"{finished.rows[1]['accuracy']:.2%}".replace("%", " %") in result.output
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1])
    result = evaluated(folder, "--trust")
    assert result.exit_code == 2
    assert result.stderr.endswith("model.onnx has changed since it was exported; export the model again\n")


def test_files_that_can_hold_code_are_not_measured_without_trust(exported, monkeypatch):
    monkeypatch.setattr("toolkit.hooks.loading.Plugin.implements", lambda _, hook: hook != "check")
    result = evaluated(exported)
    assert result.exit_code == 2
    assert "can hold native code; pass --trust if you know their author" in result.stderr
    assert evaluated(exported, "--trust").exit_code == 0


def test_one_file_of_an_export_is_no_model_but_its_folder_is(exported):
    result = evaluated(exported / "model.onnx")
    assert result.exit_code == 2
    assert result.stderr == f"error: {exported / 'model.onnx'} is one file of an export; name its folder, {exported}\n"


def test_a_run_that_is_still_at_work(export, finished):
    with RunDirectory.at_rest(finished.directory):
        result = export("--runtime", "onnxruntime")
    assert result.exit_code == 2
    assert "is in use by process" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--runtime", "onxruntime"], "no runtime 'onxruntime' is installed; did you mean 'onnxruntime'?"),
        (["--runtime", "onnxruntime", "--stage", "quantisation"], "has no stage 'quantisation'; did you mean 'quantiz"),
        (
            ["--runtime", "onnxruntime", "--set", "opset=7"],
            "opset: must be greater than or equal to 21, found 7",
        ),
        (["--runtime", "onnxruntime", "--set", "opsets=22"], "opsets: is not a known key; did you mean 'opset'?"),
        (["--runtime", "onnxruntime", "--data", "nowhere"], "nowhere"),
        (
            ["--runtime", "onnxruntime", "--runtime", "pt2", "--set", "opset=22"],
            "--set opset must begin with the name of its runtime, as in NAME.opset",
        ),
    ],
)
def test_mistakes(arguments, sentence, export):
    result = export(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_data_that_is_code_is_not_run_unasked(export):
    result = export("--runtime", "onnxruntime", data=())
    assert result.exit_code == 2
    assert "the run's data is Python code" in result.stderr


def test_a_folder_that_is_no_run(tmp_path):
    result = CliRunner().invoke(main, ["export", str(tmp_path), "--runtime", "onnxruntime"])
    assert result.stderr == f"error: {tmp_path} is not a run directory: it has no report.json\n"


def test_a_file_timed_on_another_processor_than_the_run_says_so(export, finished):
    report = finished.directory / "report.json"
    before = report.read_text()
    try:
        content = json.loads(before)
        content["environment"]["processor"] = "an abacus"
        report.write_text(json.dumps(content))
        result = export("--runtime", "onnxruntime")
        assert result.exit_code == 0, result.output
        warning = " instead of an abacus; do not compare its times with those of the run's stages"
        assert warning in " ".join(result.output.split())
        assert " instead of an abacus" in read_report(finished.directory).final.timed_with
    finally:
        report.write_text(before)
