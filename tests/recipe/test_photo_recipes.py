"""The shipped recipes that need a folder of photos and a checkpoint of the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import toolkit
from toolkit.importing import object_named
from toolkit.recipe.read import read_recipe
from toolkit.recipe.shipped import shipped
from toolkit.runner.assembly import assemble

RECIPES = {name: path for name, path in shipped().items() if name.startswith(("cifar/", "resnet18"))}


def network(name: str) -> torch.nn.Module:
    make: Callable[[], torch.nn.Module] = object_named(f"{RECIPES['cifar/resnet56'].with_name('resnet.py')}:{name}")
    return make()


@pytest.fixture(name="here")
def _here(tmp_path: Path) -> dict[str, Any]:
    """Sixteen photos of each of ten classes in colors of their own, and a checkpoint as published ones are."""
    for split, count in (("train", 12), ("test", 4)):
        for label in range(10):
            folder = tmp_path / "photos" / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                noise = Image.effect_noise((32, 32), 10 * label + number).convert("RGB")
                color = Image.new("RGB", (32, 32), (25 * label, 255 - 25 * label, 60 * (label % 4)))
                Image.blend(noise, color, 0.7).save(folder / f"{number}.jpg")
    torch.manual_seed(0)
    state = {
        f"module.{name}": tensor
        for name, tensor in network("resnet56").state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save({"state_dict": state, "best_prec1": 93.0}, tmp_path / "resnet56.pt")
    return {"data.args.root": str(tmp_path / "photos"), "model.weights": str(tmp_path / "resnet56.pt")}


@pytest.mark.parametrize(("name", "parameters"), [("resnet20", 269_722), ("resnet56", 853_018)])
def test_networks_have_the_parameters_of_the_paper_and_of_checkpoints(name: str, parameters: int) -> None:
    model = network(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_published_checkpoint_loads(here: dict[str, Any]) -> None:
    assembly = assemble(read_recipe("cifar/resnet56", here))
    stored = torch.load(here["model.weights"], weights_only=True)["state_dict"]
    assert torch.equal(assembly.model.state_dict()["layer3.8.conv2.weight"], stored["module.layer3.8.conv2.weight"])
    assert assembly.data.samples("train") == 120
    assert assembly.data.samples("test") == 40


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_it_runs_from_end_to_end(name: str, here: dict[str, Any], tmp_path: Path) -> None:
    text = RECIPES[name].read_text()
    trainings = [f"stages.{stage}.finetune.epochs" for stage in range(1, text.count("finetune =") + 1)]
    short = {"measure.budget": 0.02, "data.batch_size": 40, **dict.fromkeys(trainings, 1)}
    if name == "resnet18":
        here = {"data.args.root": here["data.args.root"], "data.args.size": 64}
    else:
        short["model.training.epochs"] = 1
    report = toolkit.run(name, {**here, **short}, output=tmp_path / "run")
    assert len(report.rows) == 1 + text.count("[[stages]]") + text.count("[[exports]]")
    if name in ("cifar/resnet56", "resnet18"):
        baseline, channels, *_ = report.rows
        assert 2.0 < baseline["macs"] / channels["macs"] < 2.6
        assert baseline["size_bytes"] > (6 if name == "resnet18" else 4) * report.rows[-1]["size_bytes"]
