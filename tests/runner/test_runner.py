"""A run through its public surface: the order of hooks, rows, the run directory, and what ends a run."""

import json
import sys
import threading

import pytest
import torch
from torch import nn

import toolkit
from toolkit import masks
from toolkit.errors import TechniqueError, TrainingError
from toolkit.recipe.read import parse_recipe
from toolkit.rows import Note
from toolkit.runner import environment
from toolkit.testing import toy_data

DATA = toy_data()
HEAD = """
name = "toy"
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 2, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
batch_size = 64
[measure]
budget = 0.2
"""


@pytest.fixture
def run(tmp_path):
    def run(stages, head=HEAD, **options):
        recipe = parse_recipe(head + stages, "toy.toml", tmp_path)
        return toolkit.run(recipe, output=tmp_path / "run", **options)

    return run


def recorder(name, calls):
    """All four hooks, each noting that it was called."""

    @toolkit.hookimpl
    def prepare(model, params, data, reference):
        calls.append(f"{name}.prepare")
        assert data.test is None
        return name

    @toolkit.hookimpl
    def optimize(model, params, data, prepared):
        calls.append(f"{name}.optimize")
        assert (data.test, prepared) == (None, name)
        return model

    @toolkit.hookimpl
    def finetune(model, params, data, prepared, training):
        calls.append(f"{name}.finetune")
        assert (data.test, prepared) == (None, name)
        return training.using(after_step=lambda step, steps: calls.append(f"{name}.step") if step == steps else None)

    @toolkit.hookimpl
    def measure(model, params, data, prepared):
        calls.append(f"{name}.measure")
        assert data.test is not None
        assert prepared == name
        assert not model.training
        return {"one": 1, "note": Note("seen")}

    return {"prepare": prepare, "optimize": optimize, "finetune": finetune, "measure": measure}


@pytest.mark.smoke
def test_hooks_are_called_in_the_golden_order(install, run):
    calls = []
    for name in "abc":
        install(name, **recorder(name, calls))

    @toolkit.hookimpl
    def on_stage(stage):
        calls.append(f"stage {stage.number} {stage.name}")

    @toolkit.hookimpl
    def on_row(row):
        calls.append(f"row {row.stage}")

    @toolkit.hookimpl
    def on_start(recipe):
        calls.append(f"start {recipe.name}")

    @toolkit.hookimpl
    def on_end(report):
        calls.append(f"end {len(report.rows)}")

    install("watch", "observer", on_start=on_start, on_stage=on_stage, on_row=on_row, on_end=on_end)
    run(
        """
        [[plugins]]
        name = "watch"
        [[stages]]
        technique = "a"
        [[stages]]
        technique = "b"
        with = [{ technique = "c" }]
        finetune = { epochs = 1 }
        """
    )
    assert calls == [
        "start toy",
        *("stage 0 baseline", "row baseline"),
        *("stage 1 a", "a.prepare", "a.optimize", "a.measure", "row a"),
        *("stage 2 b", "b.prepare", "c.prepare", "b.optimize", "c.optimize", "b.finetune", "c.finetune"),
        *("b.step", "c.step", "b.measure", "c.measure", "row b"),
        "end 3",
    ]


@pytest.mark.slow
@pytest.mark.memory
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")
def test_every_row_has_its_peak_memory(run):
    report = run('[[stages]]\ntechnique = "pruning"')
    assert all(row["peak_memory_bytes"] > 0 for row in report.rows)


def test_the_report_has_every_metric_in_every_row(run, tmp_path):
    report = run(
        '[[stages]]\ntechnique = "pruning"\nparams = { sparsity = 0.5 }\n'
        '[[stages]]\ntechnique = "quantization"\nparams = { arithmetic = "int8" }'
    )
    written = json.loads((tmp_path / "run" / "report.json").read_text())
    assert written == json.loads(json.dumps(report.model_dump(mode="json")))
    assert [row["stage"] for row in written["rows"]] == ["baseline", "pruning", "quantization"]
    for row in written["rows"]:
        assert {"accuracy", "samples", "size_bytes", "parameters", "nonzero", "sparsity", "macs"} <= set(row)
        assert set(row["latency_ms"]) == set(row["latency_ratio"]) == {"1", "64"}
        assert row["samples"] == 256
        assert 0 < row["measuring_s"] < row["duration_s"]
        folder = tmp_path / "run" / "stages" / f"{written['rows'].index(row)}-{row['stage']}"
        assert row["size_bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert written["rows"][1]["pruning.sparsity"] == 0.5
    assert report.final["size_bytes"] < report.baseline["size_bytes"] / 2


@pytest.mark.page
@pytest.mark.smoke
def test_the_run_directory_is_complete_and_the_model_comes_back(run, tmp_path):
    report = run('[[stages]]\ntechnique = "pruning"\nparams = { sparsity = 0.5 }')
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *(
            "recipe.toml",
            "report.json",
            "report.md",
            "report.html",
            "details.json",
            "log.txt",
            "model.safetensors",
            "model.skeleton",
            "stages",
        ),
        *(".toolkit-run", ".lock"),
    }
    model = toolkit.load(tmp_path / "run")
    assert not model.training
    assert not masks.current(model)
    correct = sum(
        int(DATA.task.correct(DATA.task.forward(model, batch), batch).sum()) for batch in DATA.batches("test")
    )
    assert correct / 256 == report.final["accuracy"]
    assert (tmp_path / "run" / "report.md").read_text().startswith("# toy")


def test_zeros_of_pruning_stay_zeros_through_training_and_int8(run, tmp_path):
    run(
        """
        [[stages]]
        technique = "pruning"
        params = { sparsity = 0.8 }
        [[stages]]
        name = "recovery"
        technique = "distillation"
        params = { teacher = "reference" }
        finetune = { epochs = 2, weight_decay = 0.1 }
        [[stages]]
        technique = "quantization"
        params = { arithmetic = "int8" }
        """
    )
    pruned, recovered, quantized = (
        toolkit.load(tmp_path / "run" / "stages" / name) for name in ("1-pruning", "2-recovery", "3-quantization")
    )
    for layer in (1, 3):
        zeros = pruned[layer].weight == 0
        assert zeros.any()
        assert torch.equal(recovered[layer].weight == 0, zeros)
        assert not torch.equal(recovered[layer].weight, pruned[layer].weight)
        assert (quantized[layer].weight[zeros] == 0).all()
        assert quantized[layer].weight.dtype == torch.int8


def test_a_stage_starts_where_from_says(run):
    report = run(
        """
        [[stages]]
        name = "half"
        technique = "pruning"
        params = { sparsity = 0.5 }
        [[stages]]
        name = "most"
        from = "baseline"
        technique = "pruning"
        params = { sparsity = 0.9 }
        [[stages]]
        name = "more"
        from = "half"
        technique = "pruning"
        params = { sparsity = 0.6 }
        """
    )
    assert [row.get("pruning.sparsity") for row in report.rows[1:]] == pytest.approx([0.5, 0.9, 0.6], abs=1e-3)


def test_replacing_a_masked_model_is_said(run):
    report = run(
        """
        [[stages]]
        technique = "pruning"
        [[stages]]
        technique = "distillation"
        params = { student = { source = "toolkit.testing:toy_mlp", args = { hidden = 8 } } }
        finetune = { epochs = 1 }
        """
    )
    assert report.row("distillation")["sparsity"] < 0.01
    note = report.row("distillation")["ended"]
    assert note.text == "another model replaced this one: earlier promises end here (zeros in 2 weights)"
    assert [row["layer"] for row in note.table] == ["1.weight", "3.weight"]
    assert "ended" not in report.row("pruning").values


@pytest.mark.smoke
def test_the_same_recipe_twice_gives_the_same_weights_and_numbers(tmp_path):
    stages = """
        [[stages]]
        technique = "pruning"
        params = { sparsity = 0.8, schedule = "gradual" }
        with = [{ technique = "distillation" }]
        finetune = { epochs = 2 }
        [[stages]]
        technique = "quantization"
        params = { arithmetic = "int8" }
        """
    reports = [
        toolkit.run(parse_recipe(HEAD + stages, "toy.toml", tmp_path), output=tmp_path / name) for name in ("a", "b")
    ]
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert (tmp_path / "a/recipe.toml").read_text() == (tmp_path / "b/recipe.toml").read_text()
    assert without_times(reports[0]) == without_times(reports[1])


def test_the_resolved_recipe_repeats_the_run(run, tmp_path):
    first = run(
        """
        [[stages]]
        technique = "pruning"
        finetune = { epochs = 1, precision = "auto" }
        """
    )
    resolved = tmp_path / "run" / "recipe.toml"
    assert '"auto"' not in resolved.read_text()
    second = toolkit.run(resolved, output=tmp_path / "again")
    assert without_times(first) == without_times(second)
    assert resolved.read_text() == (tmp_path / "again" / "recipe.toml").read_text()


def without_times(report):
    return [
        {
            name: value
            for name, value in row.model_dump(mode="json").items()
            if not name.startswith(("latency", "duration", "measuring", "peak"))
        }
        for row in report.rows
    ]


def test_stages_are_seeded_by_number_not_by_what_ran_before(run, tmp_path):
    last = '[[stages]]\nname = "last"\ntechnique = "pruning"\nparams = { criterion = "random" }\nfrom = "baseline"\n'
    run('[[stages]]\ntechnique = "pruning"\nfinetune = { epochs = 1 }\n' + last)
    long = toolkit.load(tmp_path / "run")
    run('[[stages]]\ntechnique = "pruning"\n' + last, overwrite=True)
    assert torch.equal(long[1].weight, toolkit.load(tmp_path / "run")[1].weight)


def failing(hook, error):
    @toolkit.hookimpl
    def raises(model):
        raise error

    @toolkit.hookimpl
    def finetune(training):
        return training

    return {"finetune": finetune, hook: raises}


@pytest.mark.parametrize("hook", ["prepare", "optimize", "finetune", "measure"])
def test_a_failing_hook_names_everything_and_keeps_what_was_done(install, run, tmp_path, hook):
    install("broken", **failing(hook, ValueError("no such luck")))
    with pytest.raises(TechniqueError) as caught:
        run('[[stages]]\ntechnique = "pruning"\n[[stages]]\ntechnique = "broken"\nfinetune = { epochs = 1 }')
    assert str(caught.value) == (
        f"stage 2 (broken): 'broken' (tests 1.0) failed in {hook} with ValueError: no such luck; "
        "see the traceback in the run's log, or raise toolkit.TechniqueError for what cannot work"
    )
    assert caught.value.exit_code == 1
    rows = json.loads((tmp_path / "run" / "report.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["baseline", "pruning"]
    assert isinstance(toolkit.load(tmp_path / "run" / "stages" / "1-pruning"), nn.Module)
    assert "no such luck" in (tmp_path / "run" / "log.txt").read_text()


def returns(value):
    @toolkit.hookimpl
    def optimize():
        return value

    @toolkit.hookimpl
    def finetune():
        return value

    @toolkit.hookimpl
    def measure():
        return value

    return {"optimize": optimize, "finetune": finetune, "measure": measure}


@pytest.mark.parametrize(
    ("hook", "value", "sentence"),
    [
        ("optimize", None, "must return the model from optimize, found NoneType; end it with 'return model'"),
        ("optimize", (1, 2), "must return the model from optimize, found tuple; return it alone"),
        ("finetune", None, "must return training.using(…) from finetune, found NoneType; or return training unchanged"),
        (
            "finetune",
            nn.Linear(1, 1),
            "must return training.using(…) from finetune, found Linear; leave the training to the runner",
        ),
        ("measure", [1], "must return a dictionary of numbers and Notes from measure, found list"),
        ("measure", {"x": "fast"}, "must return numbers and Notes from measure, found str for 'x'"),
    ],
)
def test_a_hook_that_returns_the_wrong_thing_is_named(install, run, hook, value, sentence):
    install("odd", **{hook: returns(value)[hook]})
    with pytest.raises(TechniqueError, match="stage 1") as caught:
        run('[[stages]]\ntechnique = "odd"\nfinetune = { epochs = 1 }')
    assert str(caught.value) == f"stage 1 (odd): 'odd' (tests 1.0) {sentence}"


def test_a_technique_that_changes_the_shape_or_refills_zeros_is_stopped(install, run):
    @toolkit.hookimpl
    def optimize(model):
        model[3] = nn.Linear(32, 7)
        return model

    install("wider", optimize=optimize)
    with pytest.raises(TechniqueError, match=r"outputs of shape \(4,\) per sample, found \(7,\)"):
        run('[[stages]]\ntechnique = "wider"')

    @toolkit.hookimpl
    def refill(model):
        model = masks.folded(model)
        model[1].weight.data.fill_(1)
        return model

    install("refill", optimize=refill)
    refilling = '[[stages]]\ntechnique = "pruning"\nparams = { scope = "layer" }\n[[stages]]\ntechnique = "refill"'
    with pytest.raises(TechniqueError, match="refilled zeros that stage 1"):
        run(refilling, overwrite=True)


def test_a_loss_that_is_not_finite_names_stage_epoch_and_step(run):
    sentence = r"stage 1 \(pruning\): the loss is (nan|inf) in epoch \d of 3, step \d+ of 24; lower lr"
    with pytest.raises(TrainingError, match=sentence):
        run('[[stages]]\ntechnique = "pruning"\nfinetune = { epochs = 3, lr = 1e30, optimizer = "sgd" }')


def test_observers_get_params_what_they_prepared_and_every_step(install, run):
    seen = []

    class Settings(toolkit.Params):
        every: int = 3

    @toolkit.hookimpl
    def on_start(params, directory):
        assert directory.is_dir()
        return {"every": params.every}

    @toolkit.hookimpl
    def on_step(prepared, stage, step, steps, loss, lr):
        if step % prepared["every"] == 0:
            seen.append((stage.name, step, steps, loss > 0, lr > 0))

    @toolkit.hookimpl
    def measure(model, params, data, prepared):
        return {"layers": sum(1 for _ in model.modules())}

    install("watch", "observer", Params=Settings, on_start=on_start, on_step=on_step, measure=measure)
    report = run('[[plugins]]\nname = "watch"\nparams = { every = 8 }\n[[stages]]\ntechnique = "pruning"')
    assert seen == [("baseline", 8, 16, True, True), ("baseline", 16, 16, True, True)]
    assert report.baseline["watch.layers"] == 5
    assert report.final["watch.layers"] > 5


def test_a_second_run_in_a_thread_of_the_process_is_refused(run, install, tmp_path):
    errors = []

    def second():
        with pytest.raises(toolkit.ToolkitError) as caught:
            toolkit.run(parse_recipe(HEAD + '[[stages]]\ntechnique = "pruning"', "b", tmp_path), output=tmp_path / "b")
        errors.append(str(caught.value))

    @toolkit.hookimpl
    def optimize(model):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return model

    install("twice", optimize=optimize)
    run('[[stages]]\ntechnique = "twice"')
    [error] = errors
    assert error.startswith("this process is already running a recipe in a different thread")
    assert not (tmp_path / "b").exists()
    thread = threading.Thread(target=run, args=('[[stages]]\ntechnique = "pruning"',), kwargs={"overwrite": True})
    thread.start()
    thread.join()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["rows"][1]["stage"] == "pruning"


def test_threads_and_the_library_are_left_as_they_were(run):
    before = torch.get_num_threads()
    report = run('[[stages]]\ntechnique = "pruning"', head="threads = 2\n" + HEAD)
    assert report.environment["threads"] == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("system", "lacks"), [("darwin", "on Linux only"), ("win32", "only Ctrl-C and Ctrl-Break")])
def test_what_a_system_lacks_is_said_in_one_sentence(system, lacks, monkeypatch, caplog):
    environment.warn_about_machine(1, in_recipe=False)
    assert not caplog.records
    monkeypatch.setattr(sys, "platform", system)
    environment.warn_about_machine(1, in_recipe=False)
    [warning] = caplog.records
    assert lacks in warning.message


def test_threads_are_no_more_than_the_usable_cores_unless_somebody_says_so(run, monkeypatch, caplog):
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(3)  # as torch does on a machine with three cores, whose cgroup may use two
    try:
        assert run('[[stages]]\ntechnique = "pruning"').environment["threads"] == 2
        assert "threads" not in caplog.text
        run('[[stages]]\ntechnique = "pruning"', head="threads = 3\n" + HEAD, overwrite=True)
        assert "threads: 3 threads share the 2 cores that this process may use" in caplog.text
        assert "set at most 2" in caplog.text
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert run('[[stages]]\ntechnique = "pruning"', overwrite=True).environment["threads"] == 3
        assert "OMP_NUM_THREADS: 3 threads share the 2 cores" in caplog.text
    finally:
        torch.set_num_threads(1)
