"""Networks as people write them, with lambdas and classes inside functions: stored by the source that builds them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import toolkit
from toolkit import masks
from toolkit import model_files as artifact
from toolkit.errors import ArtifactError, InputError
from toolkit.importing import import_file
from toolkit.model_files import put_together, take_apart
from toolkit.model_files.packed import pack
from toolkit.sources import Source

# The shortcut without weights ("option A") of the ResNets for CIFAR-10, as it is often written.
NETS = """
import torch
import torch.nn.functional as F
from torch import nn


class LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.shortcut = LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, outputs - inputs)))

    def forward(self, inputs):
        return torch.relu(self.conv(inputs) + self.shortcut(inputs))


def resnet(width=8, classes=4):
    class Head(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * 2

    return nn.Sequential(Block(1, width), Block(width, 2 * width), nn.Flatten(), Head(8 * width, classes))


def holding():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model.function = lambda x: model[1](x)
    return model


def plain(width=8, classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""
INPUTS = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)
SOURCE = "nets.py:resnet"
RECIPE = """
[model]
source = "nets.py:resnet"
args = { width = 6 }
training = { epochs = 2, lr = 1e-2 }

[[stages]]
technique = "pruning"

[[stages]]
technique = "distillation"
params = { student = { source = "nets.py:resnet", args = { width = 5 } } }
finetune = { epochs = 1 }

[[stages]]
technique = "quantization"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(folder: Path, source: str = SOURCE, **args: Any) -> Any:
    return Source.model_validate({"source": source, "args": args}, context={"directory": folder}).build().eval()


def save(model: Any, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in artifact.pack(model).items():
        (folder / name).write_bytes(content)
    return folder


def test_a_network_with_lambdas_comes_back_from_its_source(folder: Path) -> None:
    model = built(folder, width=6)
    state = torch.get_rng_state()
    again = toolkit.load(save(model, folder / "model"), allow=[SOURCE])
    assert torch.equal(again(INPUTS), model(INPUTS))
    assert type(again[3]).__qualname__ == "resnet.<locals>.Head"  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), state), "building it again draws random numbers of its own"


def test_what_stages_changed_is_stored_as_it_is(folder: Path) -> None:
    model = built(folder, width=6)
    masks.apply(
        model, {"0.conv.weight": torch.rand_like(model[0].conv.weight) < 0.5, "3.weight": torch.ones(4, 48) > 0}
    )
    model[1].conv = torch.nn.Sequential(model[1].conv, torch.nn.BatchNorm2d(12).eval())
    wrapped = torch.nn.Sequential(torch.nn.Identity(), model)
    for fold in (True, False):
        again = put_together(take_apart(wrapped, fold), [SOURCE]).eval()
        assert torch.equal(again(INPUTS), wrapped(INPUTS))
        assert bool(masks.current(again)) is not fold
    assert torch.equal(toolkit.load(save(again, folder / "again"), [SOURCE])(INPUTS), again(INPUTS))


@pytest.mark.slow
def test_a_whole_run_and_its_files_in_another_process(folder: Path, recipe_run: Any) -> None:
    outcome = recipe_run(RECIPE)
    assert outcome.error == ""
    assert [row.stage for row in outcome.rows] == ["baseline", "pruning", "distillation", "quantization"]
    model = toolkit.load(outcome.directory, allow=[SOURCE])
    torch.save(INPUTS, folder / "inputs.pt")
    code = (
        "import torch, toolkit\n"
        f"model = toolkit.load('run', allow=['{SOURCE}'])\n"
        "print(model(torch.load('inputs.pt')).tolist())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert torch.allclose(torch.tensor(eval(done.stdout)), model(INPUTS), atol=1e-5)


def test_a_stage_is_taken_from_its_record(folder: Path, recipe_run: Any) -> None:
    model = built(folder, width=6)
    parts = take_apart(model, fold=False)
    again = put_together(parts, [f"{folder}/nets.py:resnet"], ["nothing"])
    assert torch.equal(again.eval()(INPUTS), model(INPUTS))


def test_packed_it_comes_back_too(folder: Path) -> None:
    model = built(folder, width=6)
    (folder / "model.packed").write_bytes(pack(model))
    assert torch.equal(toolkit.load(folder / "model.packed", allow=[SOURCE])(INPUTS), model(INPUTS))
    assert pack(model)[:4] == b"TKP2"
    assert pack(built(folder, "nets.py:plain"))[:4] == b"TKP1"
    with pytest.raises(ArtifactError, match=r'pass allow=\["nets.py:resnet"'):
        toolkit.load(folder / "model.packed")


@pytest.mark.parametrize("allow", [[], ["nets.py"], ["nets.py:Block", "nets.py:LambdaLayer"]])
def test_only_the_source_that_the_caller_names_is_called(folder: Path, allow: list[str]) -> None:
    path = save(built(folder), folder / "model")
    with pytest.raises(ArtifactError) as refused:
        toolkit.load(path, allow=allow)
    [listed] = re.findall(r"pass allow=(.*), or (.*) on the command line", str(refused.value))
    whole = ('["nets.py:resnet", "nets.py"]', "--allow nets.py:resnet --allow nets.py")
    assert listed == (('["nets.py:resnet"]', "--allow nets.py:resnet") if allow else whole)


def test_a_source_that_builds_something_else_now_is_an_error(folder: Path) -> None:
    path = save(built(folder), folder / "model")
    (folder / "nets.py").write_text(NETS.replace("def resnet", "def before").replace("def plain", "def resnet"))
    import_file.cache_clear()
    sentence = "what 'nets.py:resnet' builds lacks the class of '0.shortcut'|lacks 'function' of '0.shortcut'"
    with pytest.raises(InputError, match=sentence):
        toolkit.load(path, allow=[SOURCE, "nets.py"])


def test_a_lambda_that_holds_a_layer_is_refused_because_a_copy_would_share_it(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="has a lambda or inner function in 'function'"):
        artifact.pack(built(folder, "nets.py:holding"))


def test_a_lambda_of_unknown_origin_is_refused_as_before(folder: Path) -> None:
    model = built(folder)
    model.other = lambda x: x
    with pytest.raises(ArtifactError, match="has a lambda"):
        artifact.pack(model)


def test_one_function_in_several_places_comes_back_to_each(folder: Path) -> None:
    source = "def shared():\n    model = plain()\n    model.one = lambda x: x / 2\n    model.several = [model.one, 3]\n"
    (folder / "nets.py").write_text(f"{NETS}\n\n{source}    return model\n")
    again = toolkit.load(save(built(folder, "nets.py:shared"), folder / "model"), allow=["nets.py:shared"])
    assert again.one(4) == 2  # type: ignore[operator]
    assert again.several == [again.one, 3]


def test_a_lambda_that_a_stage_added_is_refused_by_its_own_name(folder: Path) -> None:
    model = built(folder)
    model[2].added = lambda x: x
    with pytest.raises(ArtifactError, match="Flatten '2' has a lambda or inner function in 'added'"):
        artifact.pack(model)


def test_older_versions_say_that_the_format_is_newer(folder: Path) -> None:
    assert b'\\"format\\": 2' in artifact.pack(built(folder))[artifact.TENSORS]
    assert b'\\"format\\": 1' in artifact.pack(built(folder, "nets.py:plain"))[artifact.TENSORS]


@pytest.mark.parametrize(
    ("place", "original"),
    [
        ("0.shortcut:_modules", "0.shortcut:function"),
        ("0.shortcut:state_dict", "0.shortcut:function"),
        ("0.shortcut:function", "0.shortcut:_modules"),
        ("0.shortcut:function", "0.shortcut:training"),
        ("nowhere:function", "0.shortcut:function"),
        ("0.shortcut", "0.shortcut:function"),
        ("0.shortcut", "3"),
        ("0.conv", "0.conv"),
    ],
)
def test_a_file_borrows_functions_and_classes_and_nothing_else(folder: Path, place: str, original: str) -> None:
    from dataclasses import replace

    parts = take_apart(built(folder))
    assert parts.borrowed is not None
    hostile = replace(parts, borrowed=replace(parts.borrowed, places={place: original}))
    with pytest.raises(ArtifactError, match=r"what 'nets\.py:resnet' builds lacks"):
        put_together(hostile, [SOURCE])


@pytest.mark.parametrize("source", ["subprocess:run", "os:system", "a; rm x:y", "torch.hub:load"])
def test_a_source_that_nobody_should_allow_is_no_advice(folder: Path, source: str) -> None:
    from dataclasses import replace

    parts = take_apart(built(folder))
    assert parts.borrowed is not None
    with pytest.raises(ArtifactError, match="not known to be safe; ask where the file comes from"):
        put_together(replace(parts, borrowed=replace(parts.borrowed, source=source)), ["nets.py"])
