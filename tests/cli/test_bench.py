"""The command that compares runtimes: files are verified, and a runtime is named only where the times allow it."""

import numpy as np
import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.runner.bench import PYTORCH, Bench
from toolkit.runner.runtimes import installed_runtimes
from toolkit.testing import run_text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    text = '[[stages]]\ntechnique = "quantization"\nparams = { arithmetic = "int8", max_drop = 100 }\n'
    return run_text(text, tmp_path_factory.mktemp("finished"))


def bench(finished, *arguments):
    data = ("--data", "toolkit.testing:toy_data", "--budget", "0.1")
    return CliRunner().invoke(main, ["bench", str(finished.directory), *data, *arguments])


@pytest.mark.slow
def test_a_table_and_a_sentence_for_each_batch_size(finished):
    result = bench(finished, "--runtime", "onnxruntime")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["PyTorch", "onnxruntime"]
    assert [line.partition(",")[0] for line in lines[-2:]] == ["At batch size 1", "At batch size 128"]
    assert not (finished.directory / "exports").exists()


def test_a_runtime_that_does_not_exist_is_named(finished):
    result = bench(finished, "--runtime", "onnxruntme")
    assert result.exit_code == 2
    assert "no runtime 'onnxruntme' is installed; did you mean 'onnxruntime'?" in result.output


def test_a_runtime_that_refuses_is_left_out(finished, monkeypatch):
    monkeypatch.setenv("PATH", "")
    result = bench(finished, "--runtime", "aoti")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "There is no file to compare with PyTorch."
    assert result.stderr.splitlines() == ["exporting to aoti …", "timing 0 files and the model in PyTorch …"]
    assert (
        "aoti is left out: 'aoti' (torch-optimization-toolkit 0.1.0) refused in export: needs a C++ comp"
        in result.output
    )


def test_all_shipped_runtimes_are_compared_by_default():
    assert {"aoti", "onnxruntime", "openvino", "pt2"} <= set(installed_runtimes())


def seconds(median, spread):
    return median + spread * np.linspace(-1, 1, 20)


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ({"a": seconds(0.5, 0.01), "b": seconds(0.8, 0.01)}, "a is the fastest on this machine."),
        (
            {"a": seconds(0.5, 0.3)[::-1], "b": seconds(0.52, 0.3)},
            "a and b cannot be told apart; the others are slower.",
        ),
    ],
)
def test_one_is_named_only_where_the_intervals_allow_it(times, sentence):
    result = Bench({8: {PYTORCH: seconds(2.0, 0.1), **times}}, {"a": 1000, "b": 2000}, {})
    assert result.recommendation() == [f"At batch size 8, {sentence}"]


@pytest.mark.load
def test_a_ratio_whose_interval_says_nothing_is_a_question_mark():
    result = Bench({8: {PYTORCH: np.full(40, 1e-3), "a": np.tile([1e-3, 1e-2], 20)}}, {"a": 1000}, {})
    assert result.table().splitlines()[-1].split()[-2:] == ["?", "?"]
