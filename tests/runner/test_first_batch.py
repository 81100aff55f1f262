"""The rehearsal at the beginning of a run: mistakes in late stages are found before a long training."""

import pytest
import torch
from click.testing import CliRunner

import toolkit
from toolkit.cli import main
from toolkit.errors import InputError, TechniqueError, ToolkitError, TrainingError
from toolkit.recipe.read import parse_recipe
from toolkit.runner import first_batch

HEAD = """
name = "toy"
[model]
source = "toolkit.testing:toy_cnn"
training = { epochs = %d, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
[measure]
budget = 0.1
"""
LONG, SHORT = HEAD % 1_000_000, HEAD % 1  # epochs: days, and a moment
PRUNING = '[[stages]]\ntechnique = "pruning"\n'
LEARNING = '[[stages]]\ntechnique = "distillation"\nfinetune = { epochs = 1 }\nparams = '


@pytest.fixture
def run(tmp_path):
    def run(stages, head=SHORT, name="run", **options):
        return toolkit.run(parse_recipe(head + stages, "toy.toml", tmp_path), output=tmp_path / name, **options)

    return run


@pytest.fixture
def always(monkeypatch):
    """Rehearse however short the training is."""
    monkeypatch.setattr(first_batch, "THRESHOLD_S", 0.0)


@pytest.fixture
def refusal(run, always, tmp_path):
    def refusal(stages, error=TechniqueError):
        with pytest.raises(error) as caught:
            run(stages)
        *errors, remedy = str(caught.value).splitlines()
        assert remedy == first_batch.REMEDY
        assert not (tmp_path / "run").exists()
        return errors

    return refusal


@pytest.fixture
def seen(install):
    """The technique `look`, which lists the number of training samples that it is given."""
    samples = []

    @toolkit.hookimpl
    def optimize(model, data):
        samples.append(data.samples("train"))
        return model

    install("look", optimize=optimize)
    return samples


def test_a_pattern_of_a_late_stage_is_refused_before_the_baseline_trains(run, tmp_path):
    stages = PRUNING + PRUNING + 'name = "second"\nparams = { layers = ["nosuch*"] }'
    with pytest.raises(TechniqueError, match=r"^stage 2 \(second\): 'pruning' .*'nosuch\*'"):
        run(stages, LONG)
    assert not (tmp_path / "run").exists()


def test_all_mistakes_are_told_at_once(refusal):
    wrong = PRUNING + 'params = { layers = ["nosuch*"] }\n'
    other = LEARNING + '{ hints = [{ teacher = "nowhere", student = "0" }] }\n'
    errors = refusal(wrong + other + '[[stages]]\ntechnique = "quantization"\n')
    assert [error.partition(":")[0] for error in errors] == ["stage 1 (pruning)", "stage 2 (distillation)"]
    assert "'nowhere'" in errors[1]


def test_a_model_that_cannot_be_exported_is_refused_before_the_baseline_trains(refusal):
    stages = '[[stages]]\ntechnique = "quantization"\nparams = { engine = "torch", max_drop = 100 }\n'
    (error,) = refusal(stages + '[[exports]]\nruntime = "onnxruntime"\n')
    assert error.startswith("export 'onnxruntime': 'onnxruntime' (")
    assert "uses the arithmetic of engine 'torch', which no other runtime has" in error


def test_stages_after_a_student_that_fails_are_not_blamed(refusal):
    student = '{ source = "toolkit.testing:toy_mlp" }'
    stages = LEARNING + f'{{ student = {student}, hints = [{{ teacher = "0", student = "nowhere" }}] }}\n'
    [error] = refusal(stages + PRUNING + 'params = { layers = ["1"] }  # a batch norm in the baseline')
    assert error.startswith("stage 1 (distillation): ")


class Unsavable(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.trick = model, lambda outputs: outputs

    def forward(self, inputs):
        return self.trick(self.model(inputs))


@pytest.mark.parametrize(
    ("error", "said", "hooks"),
    [
        (TechniqueError, "must return", {"optimize": lambda model: None}),
        (TechniqueError, "lambda", {"optimize": lambda model: Unsavable(model)}),
        (TechniqueError, "(3,)", {"optimize": lambda model: torch.nn.Sequential(model, torch.nn.Linear(4, 3))}),
        (
            TrainingError,
            "loss is nan",
            {"finetune": lambda training: training.using(loss=lambda o, b: o.sum() * torch.nan)},
        ),
        (TechniqueError, "no luck", {"finetune": lambda training: training.using(after_step=raising)}),
        (TechniqueError, "must return numbers and Notes from measure", {"measure": lambda model: {"x": object()}}),
    ],
    ids=range(6),
)
def test_what_only_a_stage_shows(refusal, install, error, said, hooks):
    install("bad", **{name: toolkit.hookimpl(hook) for name, hook in hooks.items()})
    [line] = refusal('[[stages]]\ntechnique = "bad"\nfinetune = { epochs = 1 }', error)
    assert line.startswith("stage 1 (bad): ")
    assert said in line


def raising(step, steps):
    raise RuntimeError("no luck")


def test_errors_of_several_kinds(refusal, install):
    nan = toolkit.hookimpl(lambda training: training.using(loss=lambda outputs, batch: outputs.sum() * torch.nan))
    install("nan", finetune=nan)
    stages = (
        '[[stages]]\ntechnique = "nan"\nfinetune = { epochs = 1 }\n' + PRUNING + 'params = { layers = ["nosuch*"] }'
    )
    assert len(refusal(stages, ToolkitError)) == 2


def test_a_short_training_is_not_rehearsed(run, seen):
    run('[[stages]]\ntechnique = "look"')
    assert seen == [512]


def test_a_rehearsal_sees_one_batch(run, seen, always):
    run('[[stages]]\ntechnique = "look"\n[[stages]]\ntechnique = "look"\nname = "b"\nfinetune = { batch_size = 16 }')
    assert seen == [128, 16, 512, 512]


def test_no_rehearsal(run, seen, always):
    run('[[stages]]\ntechnique = "look"', rehearsal=False)
    assert seen == [512]


def test_the_command_line_skips_it(tmp_path, monkeypatch, always):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(SHORT + PRUNING + 'params = { layers = ["nosuch*"] }')
    result = CliRunner().invoke(main, ["run", "toy.toml"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"error: {first_batch.REMEDY}"
    assert not (tmp_path / "runs").exists()
    result = CliRunner().invoke(main, ["run", "toy.toml", "--no-rehearsal"])
    assert result.exit_code == 1
    assert "rehearsal" not in result.stderr
    assert (tmp_path / "runs" / "toy" / "stages" / "0-baseline").is_dir()


def test_a_resumed_run_is_not_rehearsed_again(run, seen, install, always):
    broken = [False]

    @toolkit.hookimpl
    def optimize(model, data):
        if data.samples("train") > 128 and not broken[0]:
            broken[0] = True
            raise RuntimeError("once")
        return model

    install("once", optimize=optimize)
    stages = '[[stages]]\ntechnique = "look"\n[[stages]]\ntechnique = "once"'
    with pytest.raises(ToolkitError, match="once"):
        run(stages)
    assert seen == [128, 512]
    run(stages)
    assert seen == [128, 512]


@pytest.mark.cache
def test_trainings_that_the_cache_replaces_do_not_count(run, always, monkeypatch):
    stages = PRUNING + "finetune = { epochs = 1 }"
    run(stages, name="first")
    durations = []
    real = first_batch.estimated_training_s
    monkeypatch.setattr(
        first_batch, "estimated_training_s", lambda *args: durations.append(real(*args)) or durations[-1]
    )
    run(stages, name="second")
    run(stages.replace("epochs = 1", "epochs = 2"), name="third")
    assert durations[0] == 0
    assert durations[1] > 0


def test_a_rehearsal_changes_no_bit(run, always):
    stages = LEARNING + '{ student = { source = "toolkit.testing:toy_cnn", args = { channels = 4 } } }\n'
    stages += PRUNING + 'params = { sparsity = 0.5, schedule = "gradual" }\nfinetune = { epochs = 2 }\n'
    reports = [run(stages, name=str(rehearsal), rehearsal=rehearsal) for rehearsal in (True, False)]
    losses = [[row["training_loss"] for row in report.rows] for report in reports]
    assert losses[0] == losses[1]
    states = [toolkit.load(report.directory).state_dict() for report in reports]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


PACKED = '[output]\npacked = true\nhalf = ["*.bias", "nosuch.*"]\n'


@pytest.mark.parametrize("head", [LONG, SHORT], ids=["rehearsed", "run"])
def test_a_pattern_of_half_that_matches_nothing_is_refused(run, head):
    pytest.importorskip("constriction")
    with pytest.raises(
        InputError, match=r"output\.half: no model of the run has a tensor 'nosuch\.\*'; remove the pattern"
    ):
        run(PRUNING, head + PACKED)


def test_a_pattern_of_half_may_match_one_model_of_several(run):
    pytest.importorskip("constriction")
    student = '{ student = { source = "toolkit.testing:toy_mlp" } }'
    run(LEARNING + student, SHORT + PACKED.replace("nosuch.*", "6.weight"))
