"""`toolkit check --rehearse`: what only shows in a stage is found in seconds, and nothing is left behind."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.recipe.read import parse_recipe
from toolkit.runner.rehearsal import rehearse

HEAD = """
[model]
source = "toolkit.testing:toy_cnn"
training = { epochs = 7 }
[data]
source = "toolkit.testing:toy_data"
[measure]
budget = 0.4
"""
PRUNING = '[[stages]]\ntechnique = "pruning"\nfinetune = { epochs = 3, batch_size = 32 }\n'
HOOK = "import toolkit, torch\nfrom pathlib import Path\n@toolkit.hookimpl\ndef {}\n"


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def check(stages, head=HEAD):
        Path("toy.toml").write_text(head + stages)
        before = _modification_times(tmp_path)
        result = CliRunner().invoke(main, ["check", "toy.toml", "--rehearse"])
        assert _modification_times(tmp_path) == before
        return result

    return check


def _modification_times(folder):
    """Return when each file was written, without installed plugins and what Python compiles on an import."""
    paths = (path for path in folder.rglob("*") if "installed-" not in str(path) and "__pycache__" not in path.parts)
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.smoke
def test_every_stage_is_run_and_estimated(check):
    result = check(PRUNING + '[[stages]]\ntechnique = "quantization"\n')
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[:3] == [
        "trying stage 0 (baseline) on 2 batches",
        "trying stage 1 (pruning) on 2 batches",
        "trying stage 2 (quantization) on 2 batches",
    ]
    assert result.stdout.startswith("toy.toml: ok; expect a run of about ")
    rows = [line.split() for line in result.stdout.splitlines()[4:] if line]
    assert [row[:2] for row in rows] == [["baseline", "28"], ["pruning", "48"], ["quantization", "0"]]  # steps


def test_two_batches_are_no_reason_to_train_longer(caplog):
    text = HEAD.replace("epochs = 7", "epochs = 7, lr = 1e-9") + PRUNING
    rehearse(parse_recipe(text, "toy", Path()))
    assert caplog.messages
    assert "train longer" not in caplog.text


def test_an_untrained_baseline_is_told_in_a_rehearsal(caplog):
    rehearse(parse_recipe(HEAD.replace("training = { epochs = 7 }", "") + PRUNING, "toy", Path()))
    assert "the baseline is not trained" in caplog.text


def test_the_size_is_that_of_the_real_run(recipe_run):
    text = HEAD + PRUNING
    rehearsal = rehearse(parse_recipe(text, "toy", Path()))
    assert [row.size_bytes for row in rehearsal.rows] == [row["size_bytes"] for row in recipe_run(text).rows]
    assert rehearsal.duration_s == sum(row.training_s + row.own_s for row in rehearsal.rows)


def test_a_technique_that_nobody_has_seen_gets_two_batches_and_one_epoch(check, make_plugin):
    make_plugin(
        "unseen",
        "import json, toolkit\n"
        "@toolkit.hookimpl\ndef prepare(data): return [data.samples('train'), data.samples('validation')]\n"
        "@toolkit.hookimpl\ndef finetune(training, prepared):\n"
        "    raise toolkit.TechniqueError(json.dumps([prepared, training.settings.epochs]))\n",
    )
    result = check('[[stages]]\ntechnique = "unseen"\nfinetune = { epochs = 50, batch_size = 16 }\n')
    assert json.loads(result.stderr.rpartition(": ")[2]) == [[256, 128], 1]  # batches of 128, the data's


def test_a_stage_that_breaks_the_one_before_it(check, make_plugin):
    make_plugin(
        "refill",
        HOOK.format(
            "optimize(model):\n    model = toolkit.masks.folded(model)\n"
            "    for p in model.parameters(): torch.nn.init.ones_(p)\n    return model"
        ),
    )
    result = check(PRUNING + '[[stages]]\ntechnique = "refill"\n')
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: toy.toml: stage 2 (refill): 'refill' (refill-plugin 1.0)")
    assert "zero" in result.stderr


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("optimize(model):\n    import a_package_that_is_missing", "No module named 'a_package_that_is_missing'"),
        ("optimize(model): return torch.nn.Sequential(model, torch.nn.Linear(4, 3))", "(3,)"),
        ("optimize(model): return model.requires_grad_(False)", "no parameters to train"),
        ("optimize(model): return None", "must return"),
        ("finetune(training): return training.using(loss=lambda o, b: o.sum() * float('nan'))", "the loss is nan"),
        ("measure(model): return {'x': object()}", "numbers and Notes"),
        ("prepare(model): raise toolkit.TechniqueError('it has no layer')", "it has no layer"),
    ],
)
def test_what_only_a_stage_shows(hook, said, check, make_plugin):
    make_plugin("bad", HOOK.format(hook))
    # So many epochs would never end.
    result = check(PRUNING + '[[stages]]\ntechnique = "bad"\nfinetune = { epochs = 100_000_000 }\n')
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: toy.toml: stage 2 (bad): ")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mistake_in_the_file_is_reported_as_without_rehearsal(check):
    result = check(PRUNING.replace("epochs", "epoch"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: toy.toml: stages.1.finetune.epoch: is not a known key")


def test_a_data_source_that_gives_no_data(check, tmp_path):
    (tmp_path / "own.py").write_text("def data(): return 5\n")
    result = check(PRUNING, HEAD.replace("toolkit.testing:toy_data", "own.py:data"))
    assert result.exit_code == 2
    assert "must return toolkit.Data, (train, test), " in result.stderr


def test_datasets_sorted_by_class_keep_all_classes(check, tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch, toolkit\n"
        "def data():\n"
        "    y = torch.arange(4).repeat_interleave(500)\n"
        "    x = torch.randn(2000, 1, 8, 8)\n"
        "    return toolkit.Data(torch.utils.data.TensorDataset(x, y), test=(x[::2], y[::2]))\n"
    )
    few = _few_batches(tmp_path)
    assert torch.bincount(few.train[1]).min() > 50
    assert [few.samples(name) for name in ("train", "validation", "test")] == [256, 200, 256]
    result = check(PRUNING, HEAD.replace("toolkit.testing:toy_data", "own.py:data"))
    assert result.exit_code == 0, result.stderr


def _few_batches(folder):
    from toolkit.runner.rehearsal import _ReducedData

    recipe = parse_recipe(HEAD.replace("toolkit.testing:toy_data", "own.py:data") + PRUNING, "toy", folder)
    few = _ReducedData.model_construct(**dict(recipe.data))
    few._batch_size = few.batch_size
    return few.call()


def test_run_wide_plugins_are_imported_and_not_started(check, make_plugin):
    make_plugin("writer", HOOK.format("on_start(directory): Path('written').touch()"))
    assert check(PRUNING + '[[plugins]]\nname = "writer"\n').exit_code == 0
    make_plugin("lacking", "import a_package_that_is_missing")
    assert "pip install 'lacking-plugin'" in check(PRUNING + '[[plugins]]\nname = "lacking"\n').stderr
