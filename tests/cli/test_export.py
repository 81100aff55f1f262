"""`toolkit export`: a finished run as files of a runtime, and one sentence for each mistake."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.testing import run_text


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
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    script = f"{code}\nprint(outputs.shape)"
    process = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert process.stdout == "(1, 4)\n", process.stderr


def test_another_stage(export):
    result = export("--runtime", "onnxruntime", "--stage", "baseline")
    assert "After an export to onnxruntime" in result.output
    assert "0 of 2 layers multiply in integers" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--runtime", "onxruntime"], "no runtime 'onxruntime' is installed; did you mean 'onnxruntime'?"),
        (["--runtime", "onnxruntime", "--stage", "quantisation"], "has no stage 'quantisation'; did you mean 'quantiz"),
        (["--runtime", "onnxruntime", "--set", "opset=7"], "onnxruntime: opset: "),
        (["--runtime", "onnxruntime", "--data", "nowhere"], "nowhere"),
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
