"""Warnings about networks that are hardly trained, or that do not match their data: in the log, the rows, the page."""

import json
import logging

import pytest
import torch

import toolkit
from toolkit.recipe.read import parse_recipe
from toolkit.runner.row_warnings import training_warnings

NETS = """
import torch
from collections import namedtuple
from torch import nn
from toolkit import Data, Classification
from toolkit.testing import toy_data, toy_mlp

Pair = namedtuple("Pair", ["aux", "scores"])
FORMS = {
    "dictionary": lambda aux, scores: {"scores": scores, "aux": aux},
    "named": lambda aux, scores: {"aux": aux, "logits": scores},
    "tuple": lambda aux, scores: (scores, aux),
    "named tuple": lambda aux, scores: Pair(scores, aux),
}

class Heads(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form, self.aux, self.scores = form, nn.Linear(64, 4), nn.Linear(64, 4)
    def forward(self, inputs):
        flat = inputs.flatten(1)
        return FORMS[self.form](self.aux(flat), self.scores(flat))

class Own(Classification):
    def logits(self, outputs):
        return outputs["scores"]

def wide(outputs=1000):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))

def fixed():
    torch.manual_seed(7)
    return toy_mlp()

def head_only():
    state = torch.get_rng_state()
    model = fixed()
    torch.set_rng_state(state)
    model[3] = nn.Linear(32, 4)
    return model

class Stored(torch.utils.data.Dataset):
    def __init__(self, samples, targets):
        self.samples, self.hidden = samples, targets
    def __len__(self):
        return len(self.samples)
    def __getitem__(self, position):
        return self.samples[position], int(self.hidden[position])

def stored():
    data = toy_data(256)
    return Data(Stored(*data.train), test=Stored(*data.test))

def rare(samples=256):
    data = toy_data(samples)
    def rarely(inputs, targets):
        return inputs, ((targets == 0) & (torch.arange(len(targets)) % 3 == 0)).long()
    return Data(rarely(*data.train), test=rarely(*data.test))
"""
RECIPE = """
name = "toy"
[model]
source = "{model}"
{model_keys}
[data]
source = "{data}"
{data_keys}
[measure]
budget = 0.1
[[stages]]
technique = "pruning"
"""
TRAINED = "training = { epochs = 3, lr = 1e-2 }"
WIDE = "the model has 1,000 outputs, but the training targets have 4 classes; build it with 4"
CHANCE = "is not significantly above"


@pytest.fixture
def warnings(tmp_path, caplog):
    """Runs a recipe, and returns the warnings of its baseline: those in the log, which the note repeats."""
    (tmp_path / "nets.py").write_text(NETS)

    def warnings(model="toolkit.testing:toy_mlp", model_keys=TRAINED, data="toolkit.testing:toy_data", data_keys=""):
        text = RECIPE.format(model=model, model_keys=model_keys, data=data, data_keys=data_keys)
        report = toolkit.run(parse_recipe(text, "toy.toml", tmp_path), output=tmp_path / "run")
        prefix = "stage 0 (baseline): "
        found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert all(message.startswith(prefix) for message in found)
        found = [message.removeprefix(prefix) for message in found]
        note = report.baseline.get("warnings")
        assert [row["warning"] for row in note.table] == found if note else not found
        assert "warnings" not in report.final.values
        written = json.loads((report.directory / "report.json").read_text())["rows"][0]
        assert ("warnings" in written) == bool(found)
        log = (report.directory / "log.txt").read_text()
        assert all(message in log for message in found)
        return found

    return warnings


def test_a_trained_network_has_none(warnings):
    assert warnings() == []


@pytest.mark.parametrize(
    ("source", "named"),
    [("toolkit.testing:toy_mlp", "'1.weight' and 3 more"), ("nets.py:head_only", "'3.weight' and 1 more")],
)
def test_a_network_without_weights_is_not_trained(warnings, source, named):
    untrained = warnings(source, "")[0]
    assert untrained.startswith("the baseline is not trained: '")
    assert untrained.endswith(f"{source.rpartition('/')[2]}' draws {named} at random; set `weights` or `training`")


def test_weights_that_the_source_brings_are_no_cause(warnings):
    assert not any("not trained" in message for message in warnings("nets.py:fixed", ""))


@pytest.mark.parametrize("data", ["toolkit.testing:toy_data", "nets.py:stored"])
def test_a_baseline_near_chance(warnings, data):
    [message] = warnings(model_keys="training = { epochs = 1, lr = 1e-9 }", data=data)
    assert message.startswith("the baseline's accuracy, ")
    assert CHANCE in message


def test_chance_is_the_most_frequent_class(warnings):
    [message] = warnings(model_keys="training = { epochs = 1, lr = 1e-3 }", data="nets.py:rare")
    assert CHANCE in message


def test_far_more_outputs_than_classes(warnings):
    assert warnings("nets.py:wide") == [WIDE]


def test_a_few_outputs_more_are_no_cause(warnings):
    assert warnings("nets.py:wide", f"args = {{ outputs = 7 }}\n{TRAINED}") == []


@pytest.mark.parametrize(
    ("form", "taken"), [("dictionary", "'scores'"), ("tuple", "the first"), ("named tuple", "'aux'"), ("named", None)]
)
def test_the_output_that_is_taken_is_named(warnings, form, taken):
    expected = [
        f"the model has 2 outputs, and {taken} is used as the logits; "
        "define a task with a `logits` method to use a different one"
    ]
    expected = expected if taken else []
    assert warnings("nets.py:Heads", f'args = {{ form = "{form}" }}\n{TRAINED}') == expected


def test_a_task_that_chooses_its_output_is_no_cause(warnings):
    assert (
        warnings("nets.py:Heads", f'args = {{ form = "dictionary" }}\n{TRAINED}', data_keys='task = "nets.py:Own"')
        == []
    )


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (torch.linspace(2.0, 1.0, 100), None),
        (torch.linspace(2.0, 0.5, 100), "fell by 3"),
        (2.0 * 0.97 ** torch.arange(100.0), None),
        (torch.linspace(2.0, 0.5, 40), None),
        (torch.ones(100), None),
        (torch.tensor([1.0, 3.0]).repeat(50), None),
        (torch.linspace(-1.0, -2.0, 100), None),
        (torch.zeros(0), None),
    ],
    ids=["slow", "steep", "converged", "few", "flat", "noisy", "negative", "none"],
)
def test_a_loss_that_still_falls(losses, expected):
    found = training_warnings(losses.double() + 0.01 * torch.randn(len(losses), dtype=torch.float64))
    assert [expected in message for message in found] == ([True] if expected else [])


def test_a_fall_within_the_noise_is_none():
    torch.manual_seed(3)
    losses = torch.cat([torch.full((80,), 1.0), torch.full((20,), 0.75)]).double()
    assert training_warnings(losses + 0.02 * torch.randn(100, dtype=torch.float64))
    assert not training_warnings(losses + 1.0 * torch.randn(100, dtype=torch.float64))


def test_a_training_that_is_too_short_is_told_in_a_run(warnings):
    text = "training = { epochs = 8, lr = 6e-4, schedule = 'constant' }"
    found = warnings(model_keys=text, data_keys="batch_size = 64")
    assert [message for message in found if message.startswith("the training loss fell by ")]


def test_warnings_reach_the_terminal(tmp_path, monkeypatch, capsys):
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    text = RECIPE.format(model="nets.py:wide", model_keys=TRAINED, data="toolkit.testing:toy_data", data_keys="")
    toolkit.run(parse_recipe(text, "toy.toml", tmp_path), output=tmp_path / "run")
    assert capsys.readouterr().err == f"warning: stage 0 (baseline): {WIDE}\n"
