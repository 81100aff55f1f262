"""What the tests of interrupted runs share: a recipe, a run in a process that can be killed, and what must be equal."""

import json
import multiprocessing
import sys
import traceback
from pathlib import Path

import torch

import toolkit
from toolkit.recipe.read import parse_recipe

SLICE = """
import torch
from toolkit.data.mnist import mnist
from toolkit.data.splits import Data

def load(samples=384):
    data = mnist()
    train, test = data.train, data.test
    return Data(train=(train[0][:samples], train[1][:samples]), test=(test[0][:200], test[1][:200]), augment=noisy)

def noisy(inputs):
    return inputs + 0.1 * torch.randn_like(inputs)
"""
RECIPE = """
name = "survival"
seed = 5
threads = 1
[model]
source = "lenet5"
args = { width = 0.3 }
training = { epochs = 2, lr = 2e-3, schedule = "cosine" }
[data]
source = "slice.py:load"
batch_size = 32
[measure]
budget = 0.02
[[stages]]
technique = "distillation"
params = { student = { source = "lenet5", args = { width = 0.2 } } }
finetune = { epochs = 2, lr = 2e-3 }
[[stages]]
technique = "pruning"
params = { sparsity = 0.8, schedule = "gradual", steps_between = 3 }
with = [{ technique = "distillation", params = { teacher = "reference" } }]
finetune = { epochs = 2, optimizer = "sgd", lr = 1e-2 }
[[stages]]
technique = "quantization"
params = { arithmetic = "int8" }  # what is measured may be measured otherwise the next time
"""
TOY = """
name = "toy"
threads = 1
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 2, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
batch_size = 64
[measure]
budget = 0.01
[[stages]]
technique = "pruning"
params = { sparsity = 0.5 }
finetune = { epochs = 1 }
[[stages]]
technique = "quantization"
params = { arithmetic = "int8" }  # what is measured may be measured otherwise the next time
"""
TIMES = ("latency", "duration", "measuring", "peak")


def make_recipe(folder: Path, text: str = RECIPE):
    """The recipe with its data source beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slice.py").write_text(SLICE)
    return parse_recipe(text, "survival.toml", folder)


def start(recipe, output: Path, **options) -> multiprocessing.process.BaseProcess:
    """Run a recipe in a child, a copy of this process where nothing is imported again; `said` has what it printed."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(recipe, output, options))
    process.start()
    return process


def _child(recipe, output: Path, options) -> None:
    torch.set_num_threads(1)
    with said(output).open("w") as file:
        sys.stdout = sys.stderr = file
        try:
            toolkit.run(recipe, output=output, **options)
        except BaseException:
            traceback.print_exc()
            raise


def said(output: Path) -> Path:
    """Where the child that ran into `output` left what it printed, and why it failed."""
    return output.with_name(f"{output.name}-said.txt")


def outcome(folder: Path) -> dict[str, object]:
    """Everything that a run left but for times and memory: every file's name, the model's bytes, the numbers."""
    report = json.loads((folder / "report.json").read_text())
    rows = [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in report.pop("rows")]
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    models = [name for name in files if name.endswith((".safetensors", ".skeleton"))]
    return {
        "files": files,
        "models": {name: (folder / name).read_bytes() for name in models},
        "rows": rows,
        "report": report,
        "details": json.loads((folder / "details.json").read_text()),
        "recipe": (folder / "recipe.toml").read_text(),
    }


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    """Part by part, so that a failure names the part."""
    for part in expected:
        assert found[part] == expected[part], f"{part} differs"
