"""`toolkit new recipe` writes what goes through a rehearsal, and nothing else."""

from pathlib import Path

import pytest
from click.testing import CliRunner

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
            assert any(line.startswith(f"# {name} =") and "  # " in line for line in lines), name


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


def test_in_another_folder_it_finds_the_files(new):
    assert new("Net", "--output", "recipes/first.toml", "--technique", "quantization").exit_code == 0
    recipe = read_recipe("recipes/first.toml")
    assert (recipe.name, recipe.model.source) == ("first", f"{Path('nets.py').resolve()}:Net")
    assert [stage.name for stage in recipe.stages] == ["quantization"]


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
