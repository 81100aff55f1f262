"""Files of a runtime: written whole, opened in a clean process, accepted only if they match the model."""

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import toolkit
from toolkit.data.mnist import mnist
from toolkit.errors import TechniqueError
from toolkit.exports.files import export_model, export_steps
from toolkit.exports.judge import Comparison, compare
from toolkit.exports.portable import portable_source
from toolkit.exports.process import OpenedFile
from toolkit.exports.readme import Example, readme
from toolkit.hooks import loading
from toolkit.importing import import_file
from toolkit.metrics import answers
from toolkit.recipe.read import PluginUse
from toolkit.runner import exporting
from toolkit.runner.exporting import ExportJob
from toolkit.testing import toy_data, toy_mlp


@toolkit.hookimpl
def export(model, folder):
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(folder / "weights.npz", *weights.values())


@toolkit.hookimpl
def open(folder, params, threads):  # the hook's name and arguments
    # An MLP in numpy alone.
    import numpy

    first, first_bias, second, second_bias = numpy.load(f"{folder}/weights.npz").values()

    def run(inputs):
        hidden = numpy.maximum(inputs.reshape(len(inputs), -1) @ first.T + first_bias, 0)
        return hidden @ second.T + second_bias

    return run


def runtime(**hooks):
    functions = {"export": export, "open": open, **hooks}
    module = type("Module", (), {name: staticmethod(toolkit.hookimpl(hook)) for name, hook in functions.items()})
    return loading.from_module(module, "numpy", "tests 1.0", "runtime")


def opened(source, folder=Path(), blocked=()):
    return OpenedFile(folder, source, {"factor": 3}, 1, blocked, "the file of numpy")


def source_of(body):
    return "def open(folder, params, threads):\n" + "".join(f"    {line}\n" for line in body.splitlines())


@pytest.fixture
def job():
    data, baseline = toy_data(64), toy_mlp()
    return ExportJob(data, baseline, lambda: answers(baseline, data, "test"), "test", [1], 0.01)


FILES = ["README.md", "manifest.json", "run.py", "weights.npz"]


def use_of(plugin):
    return PluginUse(plugin, plugin.params_class())


def row(job, plugin, folder):
    return job.row("numpy", use_of(plugin), job.baseline, folder)


def test_what_a_runtime_unpacks_goes_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with opened(source_of("import tempfile\ntempfile.mkdtemp()\nreturn lambda inputs: inputs")):
        assert len(list(tmp_path.glob("*/*"))) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.smoke
def test_a_file_is_measured_in_a_process_of_its_own(job, tmp_path):
    baseline = replace(job, baseline=toy_mlp())
    result = baseline.row("numpy", use_of(runtime()), job.baseline, tmp_path / "numpy")
    assert sorted(path.name for path in (tmp_path / "numpy").iterdir()) == FILES
    assert result.runtime == "numpy"
    assert result["size_bytes"] == (tmp_path / "numpy" / "weights.npz").stat().st_size
    assert result["output_error"] < 1e-6
    assert result["file_agreement"] == 1
    assert result["latency_ratio"]["1"] > 0
    assert result.interval("runtime_ratio_interval", "1")


def test_a_file_is_timed_again_while_the_machine_is_busier_than_in_the_run(job, tmp_path, monkeypatch):
    taken_ms, asked = iter([9.0, 8.0, 1.0]), []

    def measured(sizes, budget_s, **_):
        asked.append((sizes, budget_s))
        return {"latency_ms": {"1": next(taken_ms)}, "latency_ratio": {"1": 1.0}}

    monkeypatch.setattr(exporting, "file_latencies", lambda *_, **given: [measured(**given)])
    job = replace(job, budget_s=60.0, baseline_times={"latency_ms": {"1": 1.0}})
    assert row(job, runtime(), tmp_path / "file")["latency_ms"] == {"1": 1.0}
    assert asked[0] == ([1], 60.0)
    assert all(sizes == [1] and budget_s <= 60.0 for sizes, budget_s in asked[1:])
    assert len(asked) == 3


def test_two_files_share_a_process():
    source = source_of(
        "import os\nimport numpy\nreturn lambda inputs: [numpy.array(os.getpid()), inputs * params.factor]"
    )
    inputs = torch.ones(2)
    with (
        OpenedFile(Path(), source, {"factor": 2.0}, 1, [], "the first") as first,
        OpenedFile(Path(), source, {"factor": 3.0}, 1, [], "the second", beside=first) as second,
    ):
        process, doubled = first(inputs)
        assert second(inputs)[0] == process
        assert (doubled[0], second(inputs)[1][0], first(inputs)[1][0]) == (2, 3, 2)
        second.__exit__(None, None, None)
        assert first(inputs)[0] == process
        with pytest.raises(TechniqueError, match="the third cannot be opened: ValueError: no"):
            OpenedFile(Path(), source_of("raise ValueError('no')"), {}, 1, [], "the third", beside=first)
        assert first(inputs)[0] == process


def test_files_of_a_run_on_another_device(job, tmp_path):
    elsewhere = replace(job, data=replace(job.data, device=torch.device("meta")))
    assert row(elsewhere, runtime(), tmp_path / "numpy")["output_error"] < 1e-6
    export_model(runtime(), toolkit.Params(), toy_mlp(), replace(job.data, device=torch.device("meta")), tmp_path / "x")


def run_readme(folder):
    text = (folder / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    # Isolated as a user's process is: the folder is all there is.
    script = f"import sys; sys.path.insert(0, '.')\n{code}\nprint(outputs)"
    return text, subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True)


def test_the_lines_of_the_readme_run(tmp_path):
    model, data = toy_mlp().eval(), toy_data(64)
    export_model(runtime(), toolkit.Params(), model, data, tmp_path / "numpy")
    text, process = run_readme(tmp_path / "numpy")
    assert "- (N, 1, 8, 8) float32" in text
    assert "- (N, 4) float32" in text
    expected = model(torch.zeros(1, 1, 8, 8)).detach().numpy()
    assert process.stdout.strip() == str(expected), process.stderr


def test_the_readme_of_several_inputs(tmp_path):
    inputs = {"tokens": torch.zeros(2, 5, dtype=torch.int64), "lengths": torch.zeros(2)}
    for example, call in ((inputs, "**inputs"), (tuple(inputs.values()), "*inputs")):
        (tmp_path / "README.md").write_text(
            readme("numpy", ["x"], {}, Example(example, {"sum": torch.zeros(2)}, "prepared"))
        )
        arguments = "tokens, lengths"
        (tmp_path / "run.py").write_text(
            f"def open(*a, threads):\n    return lambda {arguments}: [tokens.shape, tokens.dtype.name, lengths.shape]"
        )
        text, process = run_readme(tmp_path)
        assert f"model({call})" in text
        assert "- `sum`: (N,) float32" in text
        assert process.stdout.strip() == "[(1, 5), 'int64', (1,)]", process.stderr


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (toy_data, "Inputs, prepared as in training:\n"),
        (
            mnist,
            "Inputs, pixels from 0 to 1, minus the mean (0.1307), divided by the standard deviation (0.3081) of each "
            "channel:\n- (N, 1, 28, 28) float32\n",
        ),
    ],
)
def test_the_readme_says_how_inputs_are_prepared(source, sentence, tmp_path):
    data = source(64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(data.example(1).inputs.numel(), 10)).eval()
    export_model(runtime(), toolkit.Params(), model, data, tmp_path / "numpy")
    assert sentence in (tmp_path / "numpy" / "README.md").read_text()


def test_the_readme_has_the_sentence_of_the_runtime(tmp_path):
    def named(model, folder):
        export(model, folder)
        return "The arrays are in the order of the layers."

    export_model(runtime(export=named), toolkit.Params(), toy_mlp(), toy_data(64), tmp_path / "numpy")
    assert "\n\nThe arrays are in the order of the layers.\n\n" in (tmp_path / "numpy" / "README.md").read_text()


@pytest.mark.parametrize("name", ["toolkit", "toolkit_onnxruntime", "nets"])
def test_nothing_of_the_toolkit_or_the_recipe_can_be_imported(name, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(TechniqueError, match=f"No module named '{name}'"):
        opened(source_of(f"import {name}"), blocked=["toolkit_onnxruntime"])


def test_a_package_of_the_recipe_is_blocked():
    with pytest.raises(TechniqueError, match="No module named 'tabulate'"):
        opened(source_of("import tabulate"), blocked=["tabulate"])


def test_a_hook_that_uses_its_module_is_refused():
    def opens(folder, params, threads):
        return lambda inputs: inputs * np.float32(len(folder))

    with pytest.raises(TechniqueError, match="opens uses 'np' of its module, but runs in a process without it"):
        portable_source(inspect.getsource(opens), "'x' (tests)")


def test_a_plugin_that_is_edited_during_a_run_exports_what_was_imported(tmp_path):
    file = tmp_path / "edited.py"
    hooks = "".join(inspect.getsource(hook) for hook in (export, open))
    file.write_text(f"import numpy as np\nimport toolkit\n\n{hooks}")
    module = import_file(file)
    del sys.modules[module.__name__]  # processes that measure memory import what lies there
    plugin = loading.from_module(module, "edited", "tests 1.0", "runtime")
    file.write_text("broken(" + "\n" * 99)
    exported = export_model(plugin, toolkit.Params(), toy_mlp(), toy_data(64), tmp_path / "numpy")
    with exported.opened(1) as opened:
        assert opened(torch.ones(3, 1, 8, 8)).shape == (3, 4)


@pytest.mark.parametrize("source", ["", "opens = 3\n", "lambda folder: 1,\n  2)", "# nothing\n"])
def test_a_source_that_is_no_function_is_refused(source):
    with pytest.raises(TechniqueError, match="the source code of open cannot be read; define it in a Python file"):
        portable_source(source, "'x' (tests)")


def test_annotations_and_decorators_are_dropped():
    @toolkit.hookimpl
    def opens(folder: Path, params: toolkit.Params, threads: int) -> object:
        return lambda inputs: inputs

    source = portable_source(inspect.getsource(opens), "'x' (tests)")
    assert source.startswith("def opens(folder, params, threads):\n")
    compile(source, "run.py", "exec")


def test_inputs_and_outputs_keep_their_structure():
    tensor = torch.arange(6, dtype=torch.int64).reshape(2, 3)
    with opened(source_of("return lambda a, b: {'sum': a + b, 'both': (a, params.factor * b)}")) as file:
        for outputs in (file(tensor, tensor), file(a=tensor, b=tensor), file((tensor, tensor))):
            assert torch.equal(outputs["sum"], 2 * tensor)
            assert torch.equal(outputs["both"][1], 3 * tensor)
            assert outputs["both"][0].dtype == torch.int64
    with opened(source_of("return lambda inputs: inputs > 0")) as file:
        assert file(tensor).dtype == torch.bool
        assert file(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("import os; os._exit(3)", "the file of numpy ended the process in which it was opened"),
        ("raise ValueError('no\\nsuch model')", "the file of numpy cannot be opened: ValueError: no such model"),
    ],
)
def test_a_runtime_that_does_not_open_a_file(body, sentence):
    with pytest.raises(TechniqueError, match=f"^{sentence}$"):
        opened(source_of(body))


def test_a_runtime_that_ends_in_a_call():
    with (
        opened(source_of("import os\nreturn lambda inputs: os._exit(1)")) as file,
        pytest.raises(TechniqueError, match="run"),
    ):
        file(torch.zeros(1))


def test_what_a_runtime_prints_does_not_disturb_its_answers():
    with opened(source_of("import os\nreturn lambda inputs: (os.write(1, b'hello'), inputs)[1]")) as file:
        assert file(torch.ones(2)).tolist() == [1, 1]


def test_a_runtime_that_writes_nothing_leaves_nothing(tmp_path):
    def export(model):
        pass

    with pytest.raises(TechniqueError, match=r"'numpy' \(tests 1\.0\) wrote no file in export"):
        export_model(runtime(export=export), toolkit.Params(), toy_mlp(), toy_data(64), tmp_path / "numpy")
    assert not list(tmp_path.iterdir())


def test_a_runtime_that_fails_halfway_leaves_the_files_of_before(tmp_path):
    def fails(folder):
        (folder / "half").write_text("")
        raise ValueError("no")

    export_model(runtime(), toolkit.Params(), toy_mlp(), toy_data(64), tmp_path / "numpy")
    with pytest.raises(TechniqueError, match="failed in export with ValueError: no"):
        export_model(runtime(export=fails), toolkit.Params(), toy_mlp(), toy_data(64), tmp_path / "numpy")
    assert [path.name for path in tmp_path.iterdir()] == ["numpy"]
    assert (tmp_path / "numpy" / "weights.npz").exists()


def scaled(model, folder):
    weights = [1.5 * tensor.numpy() for tensor in model.state_dict().values()]
    np.savez(folder / "weights.npz", *weights)


def truncated(model, folder):
    export(model, folder)
    os.truncate(folder / "weights.npz", 900)


def missing_class(model, folder):
    weights = [tensor.numpy() for tensor in model.state_dict().values()]
    np.savez(folder / "weights.npz", *weights[:2], weights[2][:3], weights[3][:3])


@pytest.mark.parametrize(
    ("hook", "sentence"),
    [
        (scaled, "does not match the model, because its outputs differ by"),
        (truncated, "the file of numpy cannot be opened: "),
        (missing_class, r"outputs must have the model's shape \(1, 4\), found \(1, 3\)"),
    ],
)
def test_a_file_that_is_not_the_model_is_removed(hook, sentence, job, tmp_path):
    with pytest.raises(TechniqueError, match=sentence):
        row(job, runtime(export=hook), tmp_path / "numpy")
    assert not list(tmp_path.iterdir())


def test_a_file_changed_after_the_export_is_not_accepted(job, tmp_path, monkeypatch):
    def tampered(*arguments):
        exported = yield from export_steps(*arguments)
        path = exported.folder / "weights.npz"
        np.savez(path, *[np.roll(array, 1) for array in np.load(path).values()])
        return exported

    monkeypatch.setattr("toolkit.runner.export_attempt.export_steps", tampered)
    with pytest.raises(TechniqueError, match=r"weights\.npz has changed since it was exported; export the model again"):
        row(job, runtime(), tmp_path / "numpy")
    assert not list(tmp_path.iterdir())


def test_one_wrong_answer_in_ten_is_found(tmp_path):
    class Flipped(nn.Module):
        def forward(self, inputs):
            outputs = model(inputs)
            outputs[::10] = -outputs[::10]
            return outputs

    model, data = toy_mlp().eval(), toy_data(64)
    comparison = compare(Flipped(), model, data, "test")
    assert not comparison.is_close
    assert comparison.agreement < 0.99


def test_the_baseline_is_exported_once(job, tmp_path):
    exports = []

    def counted(model, folder):
        exports.append(folder)
        export(model, folder)

    result = row(job, runtime(export=counted), tmp_path / "numpy")
    assert len(exports) == 1
    assert "runtime_ratio" not in result.values
    other = replace(job, baseline=toy_mlp())
    assert "runtime_ratio" in other.row("numpy", use_of(runtime(export=counted)), job.baseline, tmp_path / "x").values
    assert len(exports) == 3


class Grid(nn.Module):
    def __init__(self, rounds: bool) -> None:
        super().__init__()
        self.rounds_activations = rounds

    def forward(self, inputs):
        return inputs


@pytest.mark.parametrize(("rounds", "most"), [(True, 0.05), (False, 0.01)])
def test_a_network_that_rounds_between_its_layers_may_differ_more(rounds, most):
    model, data = nn.Sequential(toy_mlp(), Grid(rounds)).eval(), toy_data(64)

    class Shifted(nn.Module):
        def forward(self, inputs):
            return 1.03 * model(inputs)

    comparison = compare(Shifted(), model, data, "test")
    assert comparison.output_error == pytest.approx(0.03, abs=1e-4)
    assert comparison.is_close == rounds
    assert f"(at most {most:g})" in str(comparison)


@pytest.mark.parametrize(
    ("different", "samples", "is_close"),
    [(1, 20, True), (2, 20, False), (2, 199, False), (2, 200, True), (3, 200, False)],
)
def test_one_percent_of_the_answers_may_differ_and_one_in_any_case(different, samples, is_close):
    assert Comparison(0.0, 1 - different / samples, samples).is_close is is_close
