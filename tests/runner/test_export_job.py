"""Several exports at once: what they share is computed once, and one that fails does not concern the others."""

import numpy as np
import pytest
from torch import nn

import toolkit
from toolkit.errors import TechniqueError, ToolkitError
from toolkit.hooks import loading
from toolkit.metrics import answers
from toolkit.recipe.read import PluginUse
from toolkit.rows import Row
from toolkit.runner.export_attempt import Request
from toolkit.runner.exporting import ExportJob
from toolkit.testing import toy_data, toy_mlp


def export(model, folder):
    np.savez(folder / "weights.npz", *[tensor.numpy() for tensor in model.state_dict().values()])


def open(folder, params, threads):  # the hook's name and arguments
    import numpy

    first, first_bias, second, second_bias = numpy.load(f"{folder}/weights.npz").values()

    def run(inputs):
        hidden = numpy.maximum(inputs.reshape(len(inputs), -1) @ first.T + first_bias, 0)
        return hidden @ second.T + second_bias

    return run


def never_opened():
    def open(folder, params, threads):
        raise ValueError("no such processor")

    return open


def ends_when_timed():
    def open(folder, params, threads):
        import os

        import numpy

        first, first_bias, second, second_bias = numpy.load(f"{folder}/weights.npz").values()
        calls = []

        def run(inputs):
            calls.append(inputs)
            if len(calls) > 4:  # the three unusual sizes and the batch of the test split
                os._exit(1)
            hidden = numpy.maximum(inputs.reshape(len(inputs), -1) @ first.T + first_bias, 0)
            return hidden @ second.T + second_bias

        return run

    return open


def twice(model, folder):
    np.savez(folder / "weights.npz", *[2 * tensor.numpy() for tensor in model.state_dict().values()])


def refuses():
    raise TechniqueError("layer 'x' cannot be exported")


def use(name="numpy", export=export, open=open, **hooks):
    functions = {"export": export, "open": open, **hooks}
    module = type("Module", (), {hook: staticmethod(toolkit.hookimpl(code)) for hook, code in functions.items()})
    plugin = loading.from_module(module, name, "tests 1.0", "runtime")
    return PluginUse(plugin, plugin.params_class())


class Counted(nn.Module):
    """A network that counts its calls in eval mode."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.network = toy_mlp()

    def forward(self, inputs):
        Counted.calls += 1
        return self.network(inputs)


@pytest.fixture
def job():
    data, baseline = toy_data(64), toy_mlp().eval()
    return ExportJob(data, baseline, lambda: answers(baseline, data, "test"), "test", [1], 0.01)


def rows(job, folder, uses, model=None, **options):
    model = toy_mlp().eval() if model is None else model
    requests = [Request(use.plugin.name, use, model, folder / use.plugin.name) for use in uses]
    return job.rows(requests, **options)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"export": refuses}, r"'bad' \(tests 1\.0\) refused in export: layer 'x' cannot be exported"),
        ({"export": twice}, "the exported file does not match the model, because its outputs differ by"),
        ({"open": never_opened()}, "the file of bad cannot be opened: ValueError: no such processor"),
        ({"open": ends_when_timed()}, "the file of bad ended the process in which it was timed"),
        ({"measure": lambda folder: {"layers": []}}, "must return numbers and Notes from measure, found str"),
    ],
)
def test_one_that_fails_does_not_concern_the_others(bad, sentence, job, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "of_before").write_text("")
    first, error, last = rows(job, tmp_path, [use("first"), use("bad", **bad), use("last")])
    assert isinstance(error, ToolkitError)
    with pytest.raises(ToolkitError, match=sentence):
        raise error
    for row in (first, last):
        assert isinstance(row, Row)
        assert row["file_agreement"] == 1
        assert row["latency_ms"]["1"] > 0
        assert (tmp_path / row.stage / "weights.npz").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "first", "last"]
    assert [path.name for path in (tmp_path / "bad").iterdir()] == ["of_before"]


def test_the_model_answers_once_for_all_files(job, tmp_path):
    def unwrapped(model, folder):
        export(getattr(model, "network", model), folder)

    counts = []
    for names in (["first"], ["first", "second"]):
        Counted.calls = 0
        outcomes = rows(job, tmp_path, [use(name, export=unwrapped) for name in names], Counted().eval())
        assert all(isinstance(row, Row) for row in outcomes)
        counts.append(Counted.calls)
    assert counts[1] == counts[0] + 2  # for the second README


def test_the_baseline_is_exported_once_for_a_runtime(job, tmp_path):
    models = []

    def counted(model, folder):
        models.append(float(next(model.parameters()).sum()))
        export(model, folder)

    one = use("numpy", export=counted)
    other = toy_mlp().eval()
    requests = [
        Request("first", one, other, tmp_path / "first"),
        Request("float", one, job.baseline, tmp_path / "float"),
        Request("second", one, other, tmp_path / "second"),
    ]
    first, of_baseline, second = job.rows(requests)
    assert len(models) == 3
    assert "runtime_ratio" in first.values
    assert "runtime_ratio" in second.values
    assert "runtime_ratio" not in of_baseline.values


def test_what_goes_on_in_the_background_begins_first_and_ends_last(job, tmp_path):
    done = []

    def slow(model, folder):
        done.append("begins")
        export(model, folder)
        yield
        done.append("ends")

    def quick(model, folder):
        done.append("quick")
        export(model, folder)

    quick_row, slow_row = rows(job, tmp_path, [use("quick", export=quick), use("slow", export=slow)], job.baseline)
    assert done == ["begins", "quick", "ends"]
    assert (quick_row.stage, slow_row.stage) == ("quick", "slow")


@pytest.mark.parametrize("phase", ["exporting", "verifying", "timing"])
def test_an_interruption_leaves_nothing_and_ends_the_background(phase, job, tmp_path):
    ended = []

    def slow(model, folder):
        export(model, folder)
        try:
            yield
        finally:
            ended.append(True)

    def interrupt(request, activity):
        if (request.name, activity) == ("quick", phase):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows(job, tmp_path, [use("quick"), use("slow", export=slow)], on_phase=interrupt)
    assert ended == [True, True]
    assert not list(tmp_path.iterdir())


def test_an_export_that_is_refused_is_not_verified_and_leaves_no_folder(job, tmp_path):
    def refuse(model, folder):
        raise TechniqueError("this model cannot be exported")

    phases = []
    exports = tmp_path / "exports"
    [error] = rows(job, exports, [use("none", export=refuse)], on_phase=lambda _, activity: phases.append(activity))
    assert isinstance(error, TechniqueError)
    assert phases == ["exporting"]
    assert not exports.exists()


def test_an_error_after_a_pause_is_that_of_the_hook(job, tmp_path):
    def late(model, folder):
        yield
        raise ValueError("the compiler failed")

    [error] = rows(job, tmp_path, [use("late", export=late)])
    with pytest.raises(TechniqueError, match=r"'late' \(tests 1\.0\) failed in export with ValueError: the compiler"):
        raise error
    assert not list(tmp_path.iterdir())
