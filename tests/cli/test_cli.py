"""The command line: exit codes, one sentence a mistake, no traceback, and what is written when."""

import io
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import toolkit
from toolkit.cli import main
from toolkit.data.built_in import DATASETS
from toolkit.data.coerce import FORMS
from toolkit.errors import InputError
from toolkit.hooks import loading as techniques
from toolkit.recipe.read import read_recipe
from toolkit.runner.evaluation import evaluate
from toolkit.testing import run_text, toy_cnn

ROOT = Path(__file__).parents[2]
HEAD = """\
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 1, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
args = { samples = 256 }
batch_size = 64
[measure]
budget = 0.05
"""
PRUNING = '[[stages]]\ntechnique = "pruning"\n'
RECIPE = HEAD + PRUNING
HEAVY = ("torch", "torchvision", "pydantic", "numpy", "pluggy", "safetensors", "tqdm", "tabulate")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory with a recipe."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "toy.toml").write_text(RECIPE)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs techniques as pip would: a module and metadata in a folder on the path."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    made = []

    def install(name, source):
        made.append(f"{name}_technique")
        info = site / f"{name}_plugin-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{made[-1]}.py").write_text(f"import toolkit\n{source}")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\nSummary: Toys.\n")
        (info / "entry_points.txt").write_text(f"[toolkit]\n{name} = {made[-1]}\n")
        return site

    techniques.load.cache_clear()
    yield install
    techniques.load.cache_clear()
    for module in made:
        sys.modules.pop(module, None)


def invoke(*arguments):
    """The exit code and everything printed, with no error but a deliberate exit."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def errors(output):
    return [line.removeprefix("error: ") for line in output.splitlines() if line.startswith("error: ")]


def files(folder):
    """The content of every file by its path in the folder, but for what Python caches."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {path.relative_to(folder): path.read_bytes() for path in found}


def process(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("environment", {})}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def forked(output, *arguments):
    """The command in a copy of this process, where nothing is imported again, with what it prints in a file."""

    def command():
        # A shell that starts pytest in the background would let the process ignore the signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = sys.stderr = output.open("w", buffering=1)
        main(arguments)

    running = multiprocessing.get_context("fork").Process(target=command)
    running.start()
    return running


class TestRun:
    @pytest.mark.smoke
    def test_it_prints_the_table_and_leaves_a_run_directory(self, here):
        code, output = invoke("run", "toy.toml")
        assert code == 0
        rows = [line.split()[:2] for line in output.splitlines() if line.strip()[:1].isdecimal()]
        assert rows[:2] == [["0", "baseline"], ["1", "pruning"]]
        assert "\nModel and report: runs/toy\n" in output
        assert {"recipe.toml", "report.json", "report.md", "model.safetensors", "model.skeleton", "log.txt"} <= {
            path.name for path in (here / "runs" / "toy").iterdir()
        }
        assert isinstance(toolkit.load("runs/toy"), torch.nn.Module)

    def test_set_replaces_values_and_later_ones_win(self, here):
        settings = ["stages.1.params.sparsity=0.25", "stages.1.name=a name", "stages.1.params.sparsity=0.75"]
        code, output = invoke(
            "run", "toy.toml", "--device", "cpu", *(part for text in settings for part in ("--set", text))
        )
        assert code == 0
        recipe = read_recipe(here / "runs" / "toy" / "recipe.toml")
        assert recipe.stages[0].uses[0].params.sparsity == 0.75
        assert (recipe.stages[0].name, recipe.table.device) == ("a name", "cpu")
        assert "a name" in output

    def test_the_resolved_recipe_runs_again_to_the_same_numbers(self, here):
        invoke("run", "toy.toml")
        code, _ = invoke("run", "runs/toy/recipe.toml", "--output", "again")
        assert code == 0
        first, again = (json.loads((here / run / "report.json").read_text()) for run in ("runs/toy", "again"))
        assert [row["accuracy"] for row in first["rows"]] == [row["accuracy"] for row in again["rows"]]
        assert files(here / "again" / "stages") == files(here / "runs" / "toy" / "stages")

    def test_output_is_where_it_goes(self, here):
        code, output = invoke("run", "toy.toml", "--output", "some/where/else")
        assert code == 0
        assert (here / "some/where/else/report.json").is_file()
        assert not (here / "runs").exists()
        assert "some/where/else" in output

    def test_a_python_file_beside_the_recipe_can_be_model_and_data(self, here):
        folder = here / "beside"
        folder.mkdir()
        (folder / "own.py").write_text("from toolkit.testing import TiedToy as Net, toy_data\n")
        (folder / "toy.toml").write_text(
            RECIPE.replace("toolkit.testing:toy_mlp", "own.py:Net").replace(
                "toolkit.testing:toy_data", "own.py:toy_data"
            )
        )
        assert invoke("run", "beside/toy.toml")[0] == 0

    def test_lazy_layers_are_trained_and_saved(self, here):
        (here / "own.py").write_text(
            "from torch import nn\ndef lazy():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))\n"
        )
        (here / "toy.toml").write_text(
            HEAD.replace("toolkit.testing:toy_mlp", "own.py:lazy")
            + '[[stages]]\ntechnique = "distillation"\nfinetune = {}\n'
            + 'params = { student = { source = "own.py:lazy" } }\n'
            + '[[stages]]\ntechnique = "quantization"\n'
        )
        code, output = invoke("run", "toy.toml")
        assert code == 0, output
        assert toolkit.load("runs/toy")(torch.zeros(1, 1, 8, 8)).shape == (1, 4)

    def test_an_existing_run_is_kept_without_overwrite(self, here):
        invoke("run", "toy.toml")
        before = files(here)
        code, output = invoke("run", "toy.toml")
        assert (code, errors(output)) == (
            2,
            ["runs/toy already exists; choose another --output, or pass --overwrite"],
        )
        assert files(here) == before

    def test_an_existing_run_is_replaced_with_overwrite(self, here):
        invoke("run", "toy.toml", "--set", "stages.1.name=earlier")
        code, _ = invoke("run", "toy.toml", "--overwrite")
        assert code == 0
        assert sorted(path.name for path in (here / "runs/toy/stages").iterdir()) == ["0-baseline", "1-pruning"]

    def test_a_mistake_keeps_an_existing_run_even_with_overwrite(self, here):
        invoke("run", "toy.toml")
        before = files(here)
        assert invoke("run", "toy.toml", "--overwrite", "--set", "seed=-1")[0] == 2
        assert invoke("run", "toy.toml", "--overwrite", "--set", "model.source=lenet5")[0] == 2
        assert files(here) == before

    @pytest.mark.parametrize("options", [[], ["--overwrite"]])
    @pytest.mark.parametrize("output", ["mine", "mine/notes.txt"])
    def test_what_is_no_run_is_never_replaced(self, here, output, options):
        (here / "mine").mkdir()
        (here / "mine" / "notes.txt").write_text("important")
        code, printed = invoke("run", "toy.toml", "--output", output, *options)
        assert code == 2
        assert errors(printed) == [f"{output} exists and is not a run directory; choose another --output"]
        assert (here / "mine" / "notes.txt").read_text() == "important"

    def test_an_empty_directory_may_be_used(self, here):
        (here / "empty").mkdir()
        assert invoke("run", "toy.toml", "--output", "empty")[0] == 0

    def test_a_directory_that_cannot_be_made_is_named(self, here):
        code, output = invoke("run", "toy.toml", "--output", "toy.toml/run")
        assert (code, errors(output)) == (2, ["cannot create the run directory toy.toml/run: Not a directory"])

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
    def test_a_device_that_is_not_there_is_named(self, here):
        code, output = invoke("run", "toy.toml", "--device", "cuda")
        assert code == 2
        assert "device 'cuda' is not available; choose one of cpu, auto" in errors(output)[0]
        assert not (here / "runs").exists()


BAD_RECIPES = {
    "unknown key": RECIPE.replace("[measure]", "[mesure]"),
    "text for a number": RECIPE.replace("1e-2", '"1e-2"'),
    "true for an integer": RECIPE.replace("epochs = 1", "epochs = true"),
    "out of range": f"{RECIPE}params = {{ sparsity = 1.5 }}",
    "nan": f"{RECIPE}params = {{ sparsity = nan }}",
    "unknown technique": RECIPE.replace('"pruning"', '"prunning"'),
    "unknown model": RECIPE.replace("toolkit.testing:toy_mlp", "lenet"),
    "unknown data": RECIPE.replace("toolkit.testing:toy_data", "minst"),
    "no such file": RECIPE.replace("toolkit.testing:toy_mlp", "nets.py:Net"),
    "no such weights": RECIPE.replace("training = { epochs = 1, lr = 1e-2 }", 'weights = "no.pt"'),
    "syntax": RECIPE.replace("[data]", "[data"),
    "key given twice": RECIPE.replace("[data]", 'source = "lenet5"\n[data]'),
    "empty": "",
    "missing tables": "seed = 1",
    "too deep": RECIPE.replace("[data]", "args.x" + ".a" * 3000 + " = 1\n[data]"),
    "training after quantization": f'{HEAD}[[stages]]\ntechnique = "quantization"\n{PRUNING}finetune = {{}}',
    "model for other data": RECIPE.replace("toolkit.testing:toy_mlp", "lenet5"),
    "student of other outputs": HEAD
    + '[[stages]]\ntechnique = "distillation"\nfinetune = {}\n'
    + 'params = { student = { source = "mlp", args = { hidden = [4], inputs = 64, classes = 5 } } }',
    "leaves the run directory": f'name = "../toy"\n{RECIPE}',
    "leaves the stage's folder": f'{RECIPE}name = "a/b"',
    "starts nowhere": f'{RECIPE}from = "basline"',
    "called baseline": f'{RECIPE}name = "baseline"',
}
BAD_ARGUMENTS = {
    "no such recipe": ["no.toml"],
    "a directory": ["."],
    "not UTF-8": ["latin.toml"],
    "place without value": ["toy.toml", "--set", "stages.1.params.sparsity"],
    "place that leads nowhere": ["toy.toml", "--set", "stages.2.params.sparsity=0.5"],
    "place that no recipe has": ["toy.toml", "--set", "stages.1.params.sparsty=0.5"],
    "value out of range": ["toy.toml", "--set", "stages.1.params.sparsity=2"],
}


@pytest.mark.parametrize("command", ["run", "check"])
class TestBadInput:
    def refused(self, here, command, *arguments):
        (here / "latin.toml").write_bytes("größer".encode("latin-1"))
        before = files(here)
        code, output = invoke(command, *arguments)
        assert code == 2
        assert all(line.startswith("error: ") for line in output.splitlines()), output
        assert files(here) == before
        assert not (here / "runs").exists()
        return errors(output)

    @pytest.mark.parametrize("text", BAD_RECIPES.values(), ids=BAD_RECIPES)
    def test_a_bad_recipe_is_refused_with_one_sentence_a_mistake(self, here, command, text):
        (here / "bad.toml").write_text(text)
        sentences = self.refused(here, command, "bad.toml")
        assert len(sentences) == (3 if text == "seed = 1" else 1)
        assert all(sentence.startswith("bad.toml: ") for sentence in sentences)

    @pytest.mark.parametrize("arguments", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
    @pytest.mark.smoke
    def test_bad_arguments_are_refused_with_one_sentence(self, here, command, arguments):
        assert len(self.refused(here, command, *arguments)) == 1

    @pytest.mark.parametrize("name", ["toy.pt", "toy.safetensors"])
    def test_weights_that_would_execute_code_do_not(self, here, command, name):
        class Malicious:
            def __reduce__(self):
                return os.mkdir, (str(here / "executed"),)

        (here / name).write_bytes(pickle.dumps({"1.weight": Malicious()}))
        text = RECIPE.replace("training = { epochs = 1, lr = 1e-2 }", f'weights = "{name}"')
        (here / "bad.toml").write_text(text)
        assert name in self.refused(here, command, "bad.toml")[0]
        assert not (here / "executed").exists()

    def test_weights_of_another_architecture_are_listed(self, here, command):
        torch.save(toy_cnn().state_dict(), here / "cnn.pt")
        (here / "bad.toml").write_text(RECIPE.replace("training = { epochs = 1, lr = 1e-2 }", 'weights = "cnn.pt"'))
        [sentence] = self.refused(here, command, "bad.toml")
        assert "'1.weight' must be (32, 64), found (8,)" in sentence

    def test_all_mistakes_are_found_at_once(self, here, command):
        (here / "bad.toml").write_text(
            RECIPE.replace("epochs = 1", 'epochs = "1"').replace("samples", "sampels").replace("0.05", "-1")
            + f'nam = "x"\nparams = {{ sparsity = 2, scop = "layer" }}\n{PRUNING}from = "x"\n'
        )
        found = self.refused(here, command, "bad.toml", "--set", "sed=1", "--set", "stages.3.name=x")
        assert sorted(sentence.split(": ")[1] for sentence in found) == sorted(
            [
                "model.training.epochs",
                "data.args",
                "measure.budget",
                "stages.1.nam",
                "stages.1.params.sparsity",
                "stages.1.params.scop",
                "stages.2.from",
                "stages.3.name",
                "sed",
            ]
        )


class TestFailures:
    def stages_left(self, here):
        """Every stage that is in the run directory, as its name and whether its model opens."""
        report = json.loads((here / "runs/toy/report.json").read_text())
        folders = sorted((here / "runs/toy/stages").iterdir())
        assert [folder.name for folder in folders][: len(report["rows"])] == [
            f"{number}-{row['stage']}" for number, row in enumerate(report["rows"])
        ]
        for row, folder in zip(report["rows"], folders, strict=False):
            assert evaluate(folder, "toolkit.testing:toy_data", budget_s=0.01).final["nonzero"] == row["nonzero"]
        assert not (here / "runs/toy/model.safetensors").exists()
        return [row["stage"] for row in report["rows"]]

    @pytest.mark.parametrize("hook", ["prepare", "optimize", "finetune", "measure"])
    @pytest.mark.smoke
    def test_a_hook_that_fails(self, here, install, hook):
        install("boom", f"@toolkit.hookimpl\ndef {hook}(model):\n    raise ZeroDivisionError('no\\nluck')\n")
        (here / "toy.toml").write_text(f'{RECIPE}[[stages]]\ntechnique = "boom"\nfinetune = {{ epochs = 1 }}\n')
        code, output = invoke("run", "toy.toml")
        assert code == 1
        assert errors(output)[0].startswith(
            f"stage 2 (boom): 'boom' (boom-plugin 1.0) failed in {hook} with ZeroDivisionError: no"
        )
        assert self.stages_left(here) == ["baseline", "pruning"]
        assert "Traceback" in (here / "runs/toy/log.txt").read_text()

    def test_a_technique_that_refuses(self, here, install):
        install("no", "@toolkit.hookimpl\ndef prepare(model):\n    raise toolkit.TechniqueError('not this model')\n")
        (here / "toy.toml").write_text(f'{HEAD}[[stages]]\ntechnique = "no"\n')
        code, output = invoke("run", "toy.toml")
        assert (code, errors(output)) == (
            1,
            ["stage 1 (no): 'no' (no-plugin 1.0) refused in prepare: not this model"],
        )
        assert self.stages_left(here) == ["baseline"]

    def test_a_loss_that_is_not_finite_in_the_baseline(self, here):
        training = ["--set", "model.training={epochs = 9, lr = 1e9, optimizer = 'sgd'}"]
        code, output = invoke("run", "toy.toml", *training)
        assert code == 1
        [sentence] = errors(output)
        assert sentence.startswith("stage 0 (baseline): the loss is nan in epoch ")
        assert sentence.endswith(" of 36; lower lr (now 1e+09) or set clip_norm")

    def test_a_loss_that_is_not_finite_in_a_stage(self, here):
        training = ["--set", "stages.1.finetune={epochs = 9, lr = 1e9, optimizer = 'sgd'}"]
        code, output = invoke("run", "toy.toml", *training)
        assert code == 1
        assert errors(output)[0].startswith("stage 1 (pruning): the loss is nan in epoch ")
        assert "run the same command again to resume, or a changed recipe with --overwrite\n" in output
        assert self.stages_left(here) == ["baseline"]

    def test_a_technique_that_cannot_be_imported_is_bad_input(self, here, install):
        install("broken", "import no_such_module_at_all")
        (here / "toy.toml").write_text(f'{HEAD}[[stages]]\ntechnique = "broken"\n')
        code, output = invoke("run", "toy.toml")
        assert (code, errors(output)) == (
            2,
            [
                "toy.toml: stages.1.technique: 'broken' (broken-plugin 1.0) cannot be imported: "
                "ModuleNotFoundError: No module named 'no_such_module_at_all'; "
                "install what it needs with pip install 'broken-plugin'"
            ],
        )
        assert not (here / "runs").exists()

    def test_an_interruption_in_a_stage_keeps_those_before_it(self, here, install):
        install("stop", "@toolkit.hookimpl\ndef optimize(model):\n    raise KeyboardInterrupt\n")
        (here / "toy.toml").write_text(f'{RECIPE}[[stages]]\ntechnique = "stop"\n')
        code, output = invoke("run", "toy.toml")
        assert code == 130
        assert "progress is saved in runs/toy" in output
        assert "\ninterrupted\n" in output
        assert not errors(output)
        assert self.stages_left(here) == ["baseline", "pruning"]
        _, output = invoke("run", "toy.toml", "--overwrite")  # which would start again
        assert "run the same command without --overwrite to resume\n" in output

    def test_an_interruption_before_anything_is_done_speaks_of_no_stages(self, here):
        (here / "own.py").write_text("def data():\n    raise KeyboardInterrupt\n")
        code, output = invoke("run", "toy.toml", "--set", "data={source = 'own.py:data'}")
        assert (code, output) == (130, "\ninterrupted\n")
        assert not (here / "runs").exists()

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_stops_a_running_process(self, number, code, here):
        running = forked(here / "output.txt", "run", "toy.toml", "--set", "stages.1.finetune.epochs=1_000_000")
        try:
            deadline = time.monotonic() + 60
            log = here / "runs/toy/log.txt"
            while running.is_alive() and time.monotonic() < deadline:
                if log.is_file() and "stage 1 (pruning) begins" in log.read_text():
                    break
                time.sleep(0.02)
            os.kill(running.pid, number)
            running.join(30)
        finally:
            running.kill()
        output = (here / "output.txt").read_text()
        assert running.exitcode == code, output
        assert "Traceback" not in output
        assert output.endswith("progress is saved in runs/toy; run the same command again to resume\n\ninterrupted\n")
        assert self.stages_left(here) == ["baseline"]


class TestCheck:
    @pytest.mark.smoke
    def test_recipes_that_are_right_are_said_to_be(self, here):
        (here / "other.toml").write_text(f"{RECIPE}finetune = {{}}\n")
        before = files(here)
        assert invoke("check", "toy.toml", "other.toml") == (0, "toy.toml: ok\nother.toml: ok\n")
        assert files(here) == before

    def test_all_recipes_are_checked_whatever_is_wrong_with_one(self, here):
        (here / "bad.toml").write_text("seed = 1")
        code, output = invoke("check", "no.toml", "bad.toml", "toy.toml", "--set", "stages.1.params.sparsity=0.9")
        assert code == 2
        assert "toy.toml: ok" in output.splitlines()
        found = errors(output)
        assert found[0].startswith("recipe 'no.toml' does not exist")
        assert {sentence.split(": ")[1] for sentence in found[1:]} == {"model", "data", "stages"}

    def test_the_shipped_recipes_are_right(self):
        code, output = invoke("check", "mnist", "quantization")
        assert (code, output) == (0, "mnist: ok\nquantization: ok\n")

    def test_one_is_needed(self):
        code, output = invoke("check")
        assert code == 2
        assert "RECIPE" in output


class TestTechniques:
    def test_they_are_listed_from_metadata_alone(self, install):
        install("broken", "import no_such_module_at_all")
        code, output = invoke("techniques")
        assert code == 0
        for word in ("distillation", "pruning", "quantization", "broken", "broken-plugin 1.0", "Toys."):
            assert word in output

    @pytest.mark.smoke
    def test_one_is_shown_with_everything_it_takes(self):
        code, output = invoke("techniques", "pruning")
        assert code == 0
        assert "by magnitude" in output.lower()
        for name, field in techniques.load("pruning").params_class.model_fields.items():
            [line] = [line for line in output.splitlines() if line.startswith(f"{name} ")]
            default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert default.strip("[]'") in line
        assert "≥ 0 < 1" in output
        assert '"one-shot", "gradual"' in output

    def test_an_unknown_one_gets_a_close_name(self):
        code, output = invoke("techniques", "prunning")
        assert (code, errors(output)) == (2, ["no technique 'prunning' is installed; did you mean 'pruning'?"])


class TestRecipes:
    @pytest.mark.smoke
    def test_they_are_listed_with_what_they_are_for(self):
        code, output = invoke("recipes")
        assert code == 0
        lines = dict(line.split(maxsplit=1) for line in output.splitlines())
        assert {"mnist", "distillation", "pruning", "quantization"} <= set(lines)
        summary = (ROOT / "recipes/mnist.toml").read_text().splitlines()[1].lstrip("# ")
        assert lines["mnist"] == summary
        widths = {line.index(lines[line.split()[0]]) for line in output.splitlines()}
        assert len(widths) == 1, "one below the other"

    def test_one_is_printed_as_it_is_and_runs_from_a_file(self, here):
        code, output = invoke("recipes", "mnist")
        assert code == 0
        assert output == (ROOT / "recipes/mnist.toml").read_text()

    @pytest.mark.parametrize("name", ["minst", "here.toml", "."])
    def test_an_unknown_one_is_named(self, here, name):
        code, output = invoke("recipes", name)
        assert code == 2
        assert f"'{name}'" in errors(output)[0]


OWN = """
import torch
from torch import nn
from toolkit import Data
from toolkit.testing import toy_data

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)
    def forward(self, inputs):
        return self.layer(inputs.flatten(1))

def data(samples):
    return toy_data(samples)

def digits():
    inputs, targets = torch.zeros(40, 1, 28, 28), torch.arange(40) % 10
    return Data(train=(inputs, targets), test=(inputs, targets))

def train_only():
    return Data(train=toy_data(5).train)
"""
DIGITS = """
[model]
source = "mlp"
args = { hidden = [4] }
training = { epochs = 1 }
[data]
source = "mnist"
args = { samples = 256 }
batch_size = 32
[measure]
budget = 0.05
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on MNIST and one whose data is Python code, with what their reports say."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "own.py").write_text(OWN)
    (folder / "digits.toml").write_text(DIGITS + PRUNING)
    (folder / "own.toml").write_text(
        RECIPE.replace("toolkit.testing:toy_mlp", "own.py:Net").replace("toolkit.testing:toy_data", "own.py:data")
    )
    reports = {name: toolkit.run(folder / f"{name}.toml", output=folder / name) for name in ("digits", "own")}
    return folder, reports


class TestEvaluate:
    def again(self, *arguments):
        return invoke("evaluate", *arguments, "--budget", "0.05")

    def refused(self, *arguments):
        code, output = self.again(*arguments)
        assert code == 2
        [sentence] = errors(output)
        return sentence

    @pytest.mark.parametrize(("place", "stage"), [("", "pruning"), ("stages/0-baseline", "baseline")])
    def test_a_run_and_its_stages_are_measured_on_the_runs_data(self, runs, place, stage):
        folder, reports = runs
        row = reports["digits"].row(stage)
        again = evaluate(folder / "digits" / place, budget_s=0.05)
        for name in ("accuracy", "samples", "parameters", "nonzero", "sparsity", "macs", "size_bytes"):
            assert again.final[name] == row[name], name
        assert set(again.final["latency_ms"]) == set(row["latency_ms"]) == {"1", "32"}
        code, output = self.again(folder / "digits" / place)
        assert code == 0
        assert f"{100 * row['accuracy']:.2f} %" in output
        assert Path(place or "digits").name in output

    def test_a_directory_may_be_where_one_stands(self, runs, monkeypatch):
        monkeypatch.chdir(runs[0] / "digits" / "stages" / "1-pruning")
        code, output = self.again(".")
        assert code == 0
        assert "1-pruning" in output

    def test_other_data_can_be_named(self, runs, monkeypatch):
        folder, _ = runs
        monkeypatch.chdir(folder)
        again = evaluate("digits", "own.py:digits", budget_s=0.05)
        assert again.final["samples"] == 40
        assert set(again.final["latency_ms"]) == {"1", "32"}
        assert self.again("digits", "--data", "own.py:digits", "--batch-size", "8")[0] == 0
        assert evaluate("digits", "mnist", budget_s=0.05).final["samples"] == 10_000

    def test_the_batch_size_can_be_named(self, runs):
        again = evaluate(runs[0] / "digits", batch_size=8, budget_s=0.05)
        assert set(again.final["latency_ms"]) == {"1", "8"}

    def test_code_that_a_run_names_is_not_run_unless_asked(self, runs):
        folder, reports = runs
        source = f"{folder / 'own.py'}:data"  # with the args that the run gave it
        allow = ["--allow", f"{folder / 'own.py'}:Net"]
        assert errors(self.again(folder / "own", *allow)[1])[0] == (
            f"the run's data is Python code, which runs only if you name it; pass --data {source}"
        )
        code, output = self.again(folder / "own", "--data", source, *allow)
        assert code == 0
        assert f"{100 * reports['own'].final['accuracy']:.2f} %" in output

    def test_classes_of_ones_own_have_to_be_allowed(self, runs):
        folder, _ = runs
        [sentence] = errors(self.again(folder / "own", "--data", f"{folder / 'own.py'}:data")[1])
        assert "it needs 'own" in sentence
        assert "Net', which is not known to be safe" in sentence

    @pytest.mark.parametrize(
        ("source", "sentence"),
        [
            ("own.py:Nett", "allow: '{0}/own.py' has no 'Nett'; did you mean 'Net'?"),
            ("nowhere.py", "allow: 'nowhere.py' does not exist"),
            ("lenet5", "allow: cannot import 'lenet5': ModuleNotFoundError: No module named 'lenet5'"),
            ("os", "allow: 'os' cannot be allowed as a whole; name the class, as in 'os:Name'"),
        ],
    )
    def test_what_is_allowed_exists(self, runs, monkeypatch, source, sentence):
        monkeypatch.chdir(runs[0])
        assert self.refused("own", "--allow", source) == sentence.format(runs[0])

    @pytest.mark.parametrize(
        ("data", "sentence"),
        [
            ("minst", "digits: data.source: unknown data 'minst'; did you mean 'mnist'?"),
            ("no.py:data", "digits: data.source: '{0}/no.py' does not exist"),
            ("own.py:data", "digits: data.args: missing a required argument: 'samples'"),
            ("own.py:Net", f"data: data source '{{0}}/own.py:Net' must return {FORMS}, found Net"),
            ("own.py:train_only", "data: has neither a test nor a validation split"),
            ("toolkit.testing:toy_data", "the model in digits cannot run on the data: RuntimeError: "),
        ],
    )
    def test_data_that_does_not_fit_is_refused(self, runs, monkeypatch, data, sentence):
        monkeypatch.chdir(runs[0])
        assert self.refused("digits", "--data", data).startswith(sentence.format(runs[0]))

    def test_what_is_no_run_is_refused(self, here):
        remedy = "name the directory of a finished run or of one of its stages, or a packed file"
        assert self.refused("nowhere") == f"nowhere does not exist; {remedy}"
        assert self.refused(".") == f". contains no model: model.skeleton is missing; {remedy}"

    def test_of_an_unfinished_run_a_stage_can_be_named(self, here):
        run_text('[[stages]]\ntechnique = "channels"\nparams = { blocks = 0.5 }\n', here, output="half")
        sentence = "half contains no model of a finished run; resume the run, or name a stage, such as "
        assert self.refused("half") == f"{sentence}half/stages/0-baseline"

    @pytest.mark.parametrize(
        "content", ["", "[data", "data = 1", '[data]\nsauce = "x"', None, "a" + ".a" * 3000 + "=1"]
    )
    def test_without_a_recipe_the_data_has_to_be_named(self, runs, here, content):
        for name in ("model.safetensors", "model.skeleton"):
            (here / name).write_bytes((runs[0] / "digits" / name).read_bytes())
        if content is not None:
            (here / "recipe.toml").write_text(content)
        assert self.refused(".").endswith("name the data with --data")
        assert evaluate(".", f"{runs[0] / 'own.py'}:digits", budget_s=0.05).final["samples"] == 40


class TestProcess:
    def test_help_needs_nothing_heavy(self):
        pages = [["--help"], ["-h"], *([name, "--help"] for name in main.commands), ["--version"]]
        code = f"""
import sys
from toolkit.cli import main
for arguments in {pages}:
    main(arguments, standalone_mode=False)
print("heavy:", [name for name in {HEAVY} if name in sys.modules])
"""
        output, _ = process("-c", code).communicate(timeout=300)
        assert "heavy: []" in output.splitlines()[-1]
        for name in ("run", "check", "techniques", "recipes", "evaluate"):
            assert f"  {name} " in output

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (["recipes"], 0, "mnist"),
            pytest.param(
                *(["check", "nowhere.toml"], 2, "error: recipe 'nowhere.toml' does not exist"), marks=pytest.mark.slow
            ),
            ([], 2, "Usage: python -m toolkit [OPTIONS] COMMAND"),
            (["runn"], 2, "No such command 'runn'"),
        ],
    )
    def test_python_m_toolkit_is_the_command(self, arguments, code, text):
        running = process("-m", "toolkit", *arguments)
        output, _ = running.communicate(timeout=300)
        assert running.returncode == code
        assert text in output
        assert "Traceback" not in output

    @pytest.mark.slow
    def test_the_installed_command_runs_an_installed_technique(self, here, install):
        site = install("toy", '"""Does nothing."""\n@toolkit.hookimpl\ndef optimize(model):\n    return model\n')
        (here / "toy.toml").write_text(f'{HEAD}[[stages]]\ntechnique = "toy"\n')
        command = Path(sys.executable).with_name("toolkit")
        running = process(command, "run", "toy.toml", environment={"PYTHONPATH": str(site)})
        output, _ = running.communicate(timeout=300)
        assert running.returncode == 0, output
        assert "[1/1] toy: accuracy " in output


def test_library_and_command_line_refuse_in_the_same_words(here):
    with pytest.raises(InputError) as caught:
        toolkit.run("toy.toml", {"stages.1.params.sparsity": 2, "sed": 1})
    _, output = invoke("run", "toy.toml", "--set", "stages.1.params.sparsity=2", "--set", "sed=1")
    assert errors(output) == str(caught.value).splitlines()


def test_overwriting_removes_what_a_run_owns_and_nothing_else(here):
    assert invoke("run", "toy.toml")[0] == 0
    kept = here / "runs" / "toy" / "thesis.tex"
    kept.write_text("mine")
    stale = here / "runs" / "toy" / "stages" / "9-gone"
    stale.mkdir()
    assert invoke("run", "toy.toml", "--overwrite")[0] == 0
    assert kept.read_text() == "mine"
    assert not stale.exists()


def test_a_folder_with_a_recipe_of_the_users_is_no_run_directory(here):
    project = here / "project"
    project.mkdir()
    (project / "recipe.toml").write_text((here / "toy.toml").read_text())
    code, output = invoke("run", "project/recipe.toml", "--output", "project", "--overwrite")
    assert code == 2
    assert "project exists and is not a run directory" in output
    assert [path.name for path in project.iterdir()] == ["recipe.toml"]


def test_recipes_prints_shipped_recipes_only(here):
    code, output = invoke("recipes", "toy.toml")
    assert code == 2
    assert "unknown recipe 'toy.toml'" in output


def test_weights_in_the_directory_that_a_run_replaces_are_refused(here):
    assert invoke("run", "toy.toml")[0] == 0
    weights = "model.weights=runs/toy/stages/0-baseline/model.safetensors"
    text = (here / "toy.toml").read_text()
    (here / "again.toml").write_text("\n".join(line for line in text.splitlines() if "training" not in line))
    code, output = invoke("run", "again.toml", "--set", weights, "--output", "runs/toy", "--overwrite")
    assert code == 2
    assert "is in the run directory runs/toy, which this run replaces" in output
    assert (here / "runs/toy/stages/0-baseline/model.safetensors").is_file()
    assert invoke("run", "again.toml", "--set", weights, "--output", "runs/again")[0] == 0


class TestSources:
    def test_each_has_its_summary_and_its_arguments(self):
        listed = CliRunner().invoke(main, ["sources"])
        assert [line.split()[0] for line in listed.stdout.splitlines()] == [*DATASETS]
        shown = CliRunner().invoke(main, ["sources", "image-folder"])
        assert shown.stdout.startswith("image-folder(root, size=64, channels=3, ")
        assert "mean of each channel" in shown.stdout

    def test_an_unknown_one_gets_a_close_one(self):
        result = CliRunner().invoke(main, ["sources", "image-folders"])
        assert result.exit_code == 2
        assert result.stderr == "error: unknown data source 'image-folders'; did you mean 'image-folder'?\n"


def test_a_terminal_without_a_character_shows_a_question_mark(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp437"))
    main(["check", "--help"], standalone_mode=False)
    sys.stdout.flush()
    assert "RECIPE?" in sys.stdout.buffer.getvalue().decode("cp437")
