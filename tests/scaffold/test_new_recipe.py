"""`toolkit new recipe` writes what goes through a rehearsal, and nothing else."""

import logging
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from toolkit.cli import main
from toolkit.recipe.read import read_recipe
from toolkit.scaffold.recipes import _beside
from toolkit.scaffold.templates import toml

NETS = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
class Doubled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)
class Own(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), Doubled(64, 4))
def sized(hidden):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 4))
class Untrainable(Net):
    def forward(self, inputs):
        if self.training:
            raise RuntimeError("not today")
        return super().forward(inputs)
class Big(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(65, 4))
"""


@pytest.fixture
def new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("own.py").write_text(
        "from toolkit.testing import toy_data\ndef load(samples=512):\n    return toy_data(samples)\n"
    )

    def new(net, *options):
        arguments = ["new", "recipe", "--model", f"nets.py:{net}", "--data", "own.py:load", *options]
        return CliRunner().invoke(main, arguments)

    return new


def test_it_passes_a_rehearsal_and_shows_every_setting(new):
    result = new("Net")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("recipe.toml is written; expect a run of about ")
    assert CliRunner().invoke(main, ["check", "recipe.toml", "--rehearse"]).exit_code == 0
    recipe = read_recipe("recipe.toml")
    assert [[use.plugin.name for use in stage.uses] for stage in recipe.stages] == [
        ["pruning", "distillation"],
        ["quantization"],
    ]
    lines = Path("recipe.toml").read_text().splitlines()
    assert max(map(len, lines)) <= 120
    for use in (use for stage in recipe.stages for use in stage.uses):
        for name in type(use.params).model_fields:
            assert any(line.startswith(f"# {name} =") and "  # " in line + after for line, after in pairwise(lines)), (
                name
            )


@pytest.mark.smoke
def test_arguments_are_written_as_they_are(new):
    options = ["--model-args", "{ hidden = 8 }", "--data-args", "{ samples = 40 }", "--technique", "quantization"]
    assert new("sized", *options).exit_code == 0
    assert "\nargs = { samples = 40 }\n" in Path("recipe.toml").read_text()
    recipe = read_recipe("recipe.toml")
    assert (recipe.model.args, recipe.data.args) == ({"hidden": 8}, {"samples": 40})


@pytest.mark.parametrize("text", ["samples = 3", "[1]", "3", "{ samples = }", "{}\nb = 3"])
def test_arguments_that_are_no_table(new, text):
    result = new("Net", "--data-args", text)
    assert result.exit_code == 2
    assert "Invalid value for '--data-args'" in result.stderr


def test_a_file_that_exists_is_left_alone(new):
    Path("recipe.toml").write_text("mine")
    result = new("Net")
    assert (result.exit_code, Path("recipe.toml").read_text()) == (2, "mine")
    assert result.stderr == "error: recipe.toml already exists; choose another --output, or delete it\n"


@pytest.fixture
def worked(monkeypatch):
    """What was built before a complaint."""
    built = []
    monkeypatch.setattr("toolkit.scaffold.recipes.assemble", lambda recipe: built.append(recipe))
    return built


@pytest.mark.parametrize("output", ["nets.py/recipe.toml", "x" * 300 + ".toml"])
def test_a_place_that_cannot_be_written_is_told_before_any_work(new, worked, output):
    result = new("Net", "--output", output)
    assert (result.exit_code, worked) == (2, [])
    assert result.stderr.startswith(f"error: {output} cannot be written (")
    assert result.stderr.endswith("); choose another --output\n")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told_before_any_work(new, worked):
    Path("locked").mkdir(mode=0o500)
    result = new("Net", "--output", "locked/recipes/first.toml")
    assert result.stderr == (
        "error: locked/recipes/first.toml cannot be written (Permission denied); choose another --output\n"
    )
    assert worked == []


def test_all_that_is_wrong_is_told_at_once(new, worked):
    Path("recipe.toml").write_text("mine")
    result = new("Nett", "--technique", "prunning", "--technique", "quantisation", "--data-args", "{ sampels = 3 }")
    assert (result.exit_code, worked) == (2, [])
    place, pruning, quantization, model, data = result.stderr.splitlines()
    assert place == "error: recipe.toml already exists; choose another --output, or delete it"
    assert pruning.endswith("did you mean 'pruning'?")
    assert quantization.endswith("did you mean 'quantization'?")
    assert model.endswith("did you mean 'Net'?")
    assert data.endswith("did you mean 'samples'?")


LOADERS = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from toolkit.testing import toy_data
def load():
    data = toy_data(60)
    loaders = [DataLoader(TensorDataset(*split), batch_size=20, num_workers=1) for split in (data.train, data.test)]
    return tuple(loaders)
"""


@pytest.mark.slow
def test_the_batch_size_of_a_loader_is_taken_and_what_is_ignored_is_told_once(new, caplog):
    Path("own.py").write_text(LOADERS)
    with caplog.at_level(logging.WARNING):
        assert new("Own").exit_code == 0  # tries quantization once more, alone
    messages = [record.getMessage() for record in caplog.records]
    assert [message for message in messages if "train DataLoader" in message] == [
        "ignoring these settings of the train DataLoader: num_workers"
    ]
    assert read_recipe("recipe.toml").data.batch_size == 20
    assert "batch_size = 20                   # that of the DataLoader\n" in Path("recipe.toml").read_text()


def test_a_reason_that_all_techniques_share_is_told_once(new):
    result = new("Untrainable", "--technique", "pruning", "--technique", "quantization")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no technique works on this model: ")
    assert result.stderr.count("not today") == 1


@pytest.mark.parametrize(("samples", "epochs", "finetune"), [(512, 125, 63), (30, 500, 250)])
def test_epochs_follow_from_the_steps(new, samples, epochs, finetune):
    assert new("Net", "--data-args", f"{{ samples = {samples} }}", "--technique", "pruning").exit_code == 0
    recipe = read_recipe("recipe.toml")
    assert (recipe.model.training.epochs, recipe.stages[0].finetune.epochs) == (epochs, finetune)
    steps = 500 // epochs
    text = Path("recipe.toml").read_text()
    assert f"# {epochs} epochs for at least 500 steps; an epoch has {steps}:\ntraining = " in text
    assert f"epochs = {finetune:<24} # for at least 250 steps; an epoch has {steps}\n" in text


ROUNDED = """
import toolkit
class Params(toolkit.Params):
    @property
    def trainable_after(self):
        return False
    @property
    def trainable_in_stage(self):
        return True
@toolkit.hookimpl
def finish(model):
    return model.requires_grad_(False)
"""


def test_a_stage_that_can_train_is_trained_though_no_later_one_can(new, make_plugin):
    make_plugin("rounded", ROUNDED)
    result = new("Net", "--technique", "quantization", "--technique", "rounded")
    assert result.exit_code == 0, result.stderr
    rounded, last = read_recipe("recipe.toml").stages
    assert (rounded.uses[0].plugin.name, last.uses[0].plugin.name) == ("rounded", "quantization")
    assert rounded.finetune is not None
    assert last.finetune is None


def test_a_technique_asked_for_says_which_model_to_fill_in(new):
    result = new("sized", "--model-args", "{ hidden = 8 }", "--technique", "pruning", "--technique", "distillation")
    assert result.exit_code == 0, result.stderr
    assert (
        "recipe.toml: stages.1.params.student is not set; fill in its line to set it: model that replaces"
        in result.stdout
    )
    text = Path("recipe.toml").read_text()
    line = '# student = { source = "nets.py:sized", args = { hidden = 8 } }\n'
    assert line in text
    Path("recipe.toml").write_text(text.replace(line, line.removeprefix("# ").replace("= 8", "= 4")))
    first, second = read_recipe("recipe.toml").stages
    assert (first.name, second.name) == ("distillation", "pruning")
    assert first.uses[0].params.student.args == {"hidden": 4}


PICTURES = """
import torch
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
def trained():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture
def pictures(new):
    Path("nets.py").write_text(PICTURES)
    for number, name in enumerate(("dark", "light")):
        Path("photos", name).mkdir(parents=True)
        for position in range(5):
            pixels = np.full((8, 8, 3), (51, 102, 204 * number), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("photos", name, f"{position}.png"))

    def pictures(net, args='{ root = "photos" }', output="recipe.toml", options=()):
        options = [*options, "--data-args", args, "--technique", "quantization", "--output", output]
        result = new(net, "--data", "image-folder", *options)
        assert result.exit_code == 0, result.stderr
        return read_recipe(output).data.args

    return pictures


def test_images_are_standardized_by_their_own_statistics(pictures):
    args = pictures("Net")
    assert (args["size"], args["crop"]) == (64, 1.0)
    assert args["mean"][:2] == [0.2, 0.4]
    assert args["std"][:2] == [round(1 / 255, 4)] * 2
    # Eight training images, of which none is held out for validation.
    assert args["mean"][2] == pytest.approx(0.4, abs=1e-4)
    assert args["std"][2] == pytest.approx(0.4, abs=1e-4)
    assert "in 8 training images" in Path("recipe.toml").read_text()


def test_images_of_a_pretrained_network_are_standardized_as_imagenet(pictures):
    args = pictures("trained")
    assert (args["mean"], args["std"], args["crop"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 0.875)
    text = Path("recipe.toml").read_text()
    assert "# ImageNet's, because the model has most of its weights at every seed; must be what it was" in text


def test_of_images_for_weights_of_a_file_the_recipe_says_where_they_are_from(pictures):
    torch.save(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)).state_dict(), "weights.pt")
    assert pictures("Net", options=["--weights", "weights.pt"])["mean"] == [0.485, 0.456, 0.406]
    assert "# ImageNet's, because the model has the weights of a file; must be" in Path("recipe.toml").read_text()


def test_images_are_found_from_a_recipe_in_another_folder(pictures):
    assert pictures("Net", output="recipes/first.toml")["root"] == str(Path("photos").resolve())
    assert 'root = "../photos"' in Path("recipes/first.toml").read_text()


def test_arguments_of_images_that_are_set_are_kept_without_a_look_at_the_images(pictures, monkeypatch):
    monkeypatch.setattr("toolkit.scaffold.image_arguments.pixel_statistics", None)  # a call would fail
    args = pictures("Net", '{ root = "photos", size = 8, crop = 0.5, mean = [0.5], std = [0.25], test = 0.4 }')
    root = str(Path("photos").resolve())
    assert args == {"root": root, "size": 8, "crop": 0.5, "mean": [0.5], "std": [0.25], "test": 0.4}


def test_in_another_folder_it_finds_the_files(new):
    assert new("Net", "--output", "recipes/first.toml", "--technique", "quantization").exit_code == 0
    recipe = read_recipe("recipes/first.toml")
    assert (recipe.name, recipe.model.source) == ("first", f"{Path('nets.py').resolve()}:Net")
    assert [stage.name for stage in recipe.stages] == ["quantization"]


@pytest.mark.slow
def test_what_does_not_work_on_the_model_is_left_out_with_its_reason(new):
    assert new("Own").exit_code == 0
    text = Path("recipe.toml").read_text()
    assert [stage.name for stage in read_recipe("recipe.toml").stages] == ["pruning"]
    assert "# quantization is left out, because it does not work here: " in text
    assert "Doubled has a forward of its own" in text
    nothing = new("Own", "--technique", "quantization", "--output", "other.toml")
    assert nothing.exit_code == 2
    assert nothing.stderr.startswith("error: no technique works on this model: ")


@pytest.mark.parametrize(
    ("net", "options", "said"),
    [
        ("Nett", [], "did you mean 'Net'?"),
        ("Big", [], "model: cannot run on the data"),
        ("Net", ["--technique", "prunning"], "did you mean 'pruning'?"),
    ],
)
def test_mistakes(new, net, options, said):
    result = new(net, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not Path("recipe.toml").exists()


def test_weights_are_taken_and_nothing_is_trained(new):
    import torch

    from toolkit.sources import Source

    torch.save(Source(source=f"{Path('nets.py').resolve()}:Net").build().state_dict(), "net.pt")
    assert new("Net", "--weights", "net.pt").exit_code == 0
    recipe = read_recipe("recipe.toml")
    assert (recipe.model.weights, recipe.model.training) == (str(Path("net.pt").resolve()), None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5, "1.5"), ("a", '"a"'), (["*"], '["*"]'), ({"a": [1]}, "{ a = [1] }"), (None, ""), (object(), "")],
)
def test_values_are_written_on_one_line(value, text):
    assert toml(value) == text


def test_a_file_on_another_drive_is_named_by_its_whole_path(tmp_path, monkeypatch):
    def relpath(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("toolkit.scaffold.recipes.os.path.relpath", relpath)
    assert _beside("/models/nets.py:Net", tmp_path) == "/models/nets.py:Net"
