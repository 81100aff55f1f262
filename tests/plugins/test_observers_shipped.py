"""tensorboard, mlflow and profile: what they wrote is read back, during the run and after it."""

import contextlib
import gzip
import json
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from toolkit.hooks import loading as techniques

STAGES = '[[stages]]\ntechnique = "pruning"\nfinetune = { epochs = 3 }\n[[stages]]\ntechnique = "quantization"\n'
# Looks at what another plugin has written whenever a step was taken.
WATCHER = """
import json
import toolkit
from watching import points

@toolkit.hookimpl
def on_start(directory):
    return directory

@toolkit.hookimpl
def on_step(prepared, stage, step, steps):
    if stage.number == 1:
        with (prepared / "seen.txt").open("a") as file:
            file.write(f"{step} {points(prepared)}\\n")
"""
BOOM = "import toolkit\n@toolkit.hookimpl\ndef optimize(model):\n    raise ValueError('bad')\n"
STOP = "import toolkit\n@toolkit.hookimpl\ndef optimize(model):\n    raise KeyboardInterrupt\n"


def plugin(name, **params):
    return {"plugins": [{"name": name, "params": params}]}


def events(directory):
    accumulator = EventAccumulator(str(directory / "plugins" / "tensorboard"), size_guidance={"scalars": 0})
    return accumulator.Reload()


def store(uri):
    from mlflow import MlflowClient  # whose import takes seconds, in every process that collects this file

    return MlflowClient(tracking_uri=uri)


def tracked(directory):
    client = store(f"sqlite:///{directory}/plugins/mlflow/mlflow.db")
    [experiment] = [found for found in client.search_experiments() if found.name == "recipe"]
    [run] = client.search_runs([experiment.experiment_id])
    return client, run


class TestTensorboard:
    @pytest.mark.smoke
    def test_curves_rows_recipe_and_table_are_in_the_event_file(self, recipe_run):
        outcome = recipe_run(STAGES, tables=plugin("tensorboard", every=3))
        found = events(outcome.directory)
        curve = found.Scalars("loss/1-pruning")
        assert [point.step for point in curve] == [1, 3, 6, 9, 12]  # the first, every third, the last
        assert 0 < curve[-1].value < 1
        assert [point.step for point in found.Scalars("lr/0-baseline")] == [1, 3, 6, 8]
        validated = [point.step for point in found.Scalars("validation_accuracy/1-pruning")]
        assert (validated[0], validated[-1]) == (1, 3)
        accuracies = [point.value for point in found.Scalars("row/accuracy")]
        assert accuracies == pytest.approx([row["accuracy"] for row in outcome.rows])
        texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
        assert 'technique = "pruning"' in texts["recipe/text_summary"]
        assert "quantization" in texts["report/text_summary"]
        assert "2-quantization/quantization.float/text_summary" in texts

    def test_a_run_that_fails_leaves_what_was_written(self, recipe_run, make_plugin):
        make_plugin("boom", BOOM)
        outcome = recipe_run('[[stages]]\ntechnique = "boom"', tables=plugin("tensorboard"))
        assert "failed in optimize" in outcome.error
        assert len(events(outcome.directory).Scalars("row/accuracy")) == 1


class TestMlflow:
    @pytest.mark.slow
    def test_params_curves_rows_and_the_model_are_in_the_store(self, recipe_run):
        outcome = recipe_run(STAGES, tables=plugin("mlflow", every=3))
        client, run = tracked(outcome.directory)
        assert run.info.status == "FINISHED"
        assert run.data.params["stages.1.technique"] == "pruning"
        assert run.data.params["stages.1.params.sparsity"] == "0.5"
        assert run.data.params["stages.1.finetune.epochs"] == "3"
        curve = client.get_metric_history(run.info.run_id, "loss/1-pruning")
        assert [point.step for point in curve] == [1, 3, 6, 9, 12]
        validated = client.get_metric_history(run.info.run_id, "validation_accuracy/1-pruning")
        assert {point.step for point in validated} >= {1, 3}
        rows = client.get_metric_history(run.info.run_id, "row/accuracy")
        assert [point.value for point in rows] == pytest.approx([row["accuracy"] for row in outcome.rows])
        local = client.download_artifacts(run.info.run_id, "model.safetensors")
        assert Path(local).read_bytes() == (outcome.directory / "model.safetensors").read_bytes()

    @pytest.mark.slow
    @pytest.mark.parametrize(("source", "status"), [(BOOM, "FAILED"), (STOP, "KILLED")])
    def test_a_run_that_ends_early_is_marked(self, recipe_run, make_plugin, tmp_path, source, status):
        make_plugin("boom", source)
        with contextlib.suppress(KeyboardInterrupt):
            recipe_run('[[stages]]\ntechnique = "boom"', tables=plugin("mlflow"))
        _, run = tracked(tmp_path / "run")
        assert run.info.status == status
        assert "row/accuracy" in run.data.metrics

    @pytest.mark.slow
    def test_another_store_and_experiment(self, recipe_run, tmp_path):
        uri = f"sqlite:///{tmp_path}/elsewhere.db"
        outcome = recipe_run(STAGES, tables=plugin("mlflow", tracking_uri=uri, experiment="mine", artifact=False))
        assert outcome.error == ""
        client = store(uri)
        [run] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
        assert run.info.status == "FINISHED"
        assert not (outcome.directory / "plugins" / "mlflow" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("name", "points"),
    [
        (
            "tensorboard",
            "from test_observers_shipped import events\ndef points(directory):\n    found = events(directory)\n"
            "    return len(found.Scalars('loss/1-pruning')) if 'loss/1-pruning' in found.Tags()['scalars'] else 0\n",
        ),
        pytest.param(
            "mlflow",
            "from test_observers_shipped import tracked\ndef points(directory):\n    client, run = tracked(directory)\n"
            "    return len(client.get_metric_history(run.info.run_id, 'loss/1-pruning'))\n",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_curve_can_be_read_while_the_run_trains(name, points, recipe_run, make_plugin, tmp_path, monkeypatch):
    (tmp_path / "watching.py").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    monkeypatch.delitem(sys.modules, "watching", raising=False)
    make_plugin("watcher", WATCHER)
    plugins = [{"name": name, "params": {"every": 1, "flush_s": 0.0}}, {"name": "watcher"}]
    outcome = recipe_run(STAGES, tables={"plugins": plugins})
    assert outcome.error == ""
    seen = [line.split() for line in (outcome.directory / "seen.txt").read_text().splitlines()]
    assert [int(count) for _, count in seen] == list(range(1, 13))  # after step n, n points


class TestProfile:
    def traces(self, outcome):
        folder = outcome.directory / "plugins" / "profile"
        return {path.name: json.loads(gzip.open(path).read())["traceEvents"] for path in sorted(folder.iterdir())}

    def test_there_is_a_trace_of_every_training_and_every_row(self, recipe_run):
        outcome = recipe_run(STAGES, tables=plugin("profile", skip=2, steps=4))
        assert outcome.error == ""
        traces = self.traces(outcome)
        assert list(traces) == [
            "0-baseline-inference.json.gz",
            "0-baseline-training.json.gz",
            "1-pruning-inference.json.gz",
            "1-pruning-training.json.gz",
            "2-quantization-inference.json.gz",
        ]
        steps = [event for event in traces["1-pruning-training.json.gz"] if event["name"].startswith("Optimizer.step")]
        assert len(steps) == 4
        backward = [event for event in traces["1-pruning-training.json.gz"] if "Backward" in event["name"]]
        assert backward
        note = outcome.rows[2]["profile.inference"]
        assert note.text == "the trace is 2-quantization-inference.json.gz"
        assert 0 < sum(row["share"] for row in note.table) <= 1 + 1e-9
        assert all(row["calls"] % 4 == 0 for row in note.table)

    @pytest.mark.smoke
    def test_a_trace_that_is_too_large_is_dropped_and_said_to_be(self, recipe_run):
        outcome = recipe_run(STAGES, tables=plugin("profile", largest_mb=0.001))
        assert list((outcome.directory / "plugins" / "profile").iterdir()) == []
        assert "MB exceed largest_mb: record fewer steps" in outcome.rows[1]["profile.inference"].text

    @pytest.mark.slow
    def test_a_training_of_few_steps_is_recorded_as_far_as_it_goes(self, recipe_run):
        outcome = recipe_run(STAGES, tables=plugin("profile", skip=500, steps=500))
        assert "1-pruning-training.json.gz" in self.traces(outcome)

    def test_after_a_run_that_failed_another_one_can_record(self, recipe_run, make_plugin):
        training = "import toolkit\n@toolkit.hookimpl\ndef finetune(training):\n    def stop(step, steps):\n"
        make_plugin("boom", training + "        assert step < 8\n    return training.using(after_step=stop)\n")
        text = '[[stages]]\ntechnique = "boom"\nfinetune = { epochs = 3 }'
        assert "AssertionError" in recipe_run(text, tables=plugin("profile")).error
        assert recipe_run(STAGES, tables=plugin("profile"), output="again").error == ""


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
@pytest.mark.smoke
def test_a_missing_package_is_one_sentence_with_the_command(recipe_run, monkeypatch, name):
    for module in [module for module in sys.modules if module.partition(".")[0] in (name, f"toolkit_{name}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard.writer", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    techniques.load.cache_clear()
    outcome = recipe_run(STAGES, tables=plugin(name))
    techniques.load.cache_clear()
    assert outcome.exit_code == 2
    assert outcome.error.startswith(f"recipe.toml: plugins.1.name: '{name}' (torch-optimization-toolkit ")
    assert outcome.error.endswith(f"; install what it needs with pip install 'torch-optimization-toolkit[{name}]'")
    assert "\n" not in outcome.error


@pytest.mark.slow
def test_all_three_at_once_under_one_run(recipe_run):
    plugins = [{"name": "tensorboard"}, {"name": "mlflow"}, {"name": "profile"}]
    outcome = recipe_run(STAGES, tables={"plugins": plugins})
    assert outcome.error == ""
    assert sorted(path.name for path in (outcome.directory / "plugins").iterdir()) == [
        "mlflow",
        "profile",
        "tensorboard",
    ]


def test_a_run_wide_plugin_is_no_technique(recipe_run):
    outcome = recipe_run('[[stages]]\ntechnique = "tensorboard"')
    assert outcome.exit_code == 2
    assert "name it under [[plugins]]" in outcome.error
