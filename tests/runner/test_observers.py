"""Run-wide plugins: what they are told, what they add, and that nothing depends on them."""

import json

import pytest
import torch

RECORDER = """
import json
import toolkit

class Params(toolkit.Params):
    pass

@toolkit.hookimpl
def on_start(recipe, directory):
    return directory / "told.jsonl"

def note(path, **said):
    with path.open("a") as file:
        file.write(json.dumps(said) + "\\n")

@toolkit.hookimpl
def on_stage(prepared, stage):
    note(prepared, hook="on_stage", stage=stage.number)

@toolkit.hookimpl
def on_step(prepared, stage, step, steps, loss, lr):
    note(prepared, hook="on_step", stage=stage.number, step=step, steps=steps, loss=loss, lr=lr)

@toolkit.hookimpl
def on_epoch(prepared, stage, epoch, epochs, loss, validation):
    note(prepared, hook="on_epoch", stage=stage.number, epoch=epoch, epochs=epochs, loss=loss, validation=validation)

@toolkit.hookimpl
def measure(model, data):
    return {"weights": sum(parameter.numel() for parameter in model.parameters()), "why": toolkit.Note("as it is")}

@toolkit.hookimpl
def on_row(prepared, stage, row, report):
    note(prepared, hook="on_row", stage=stage.number, rows=len(report.rows), weights=row["recorder.weights"])

@toolkit.hookimpl
def on_end(prepared, report, directory):
    note(prepared, hook="on_end", rows=len(report.rows), there=(directory / "model.safetensors").is_file())

@toolkit.hookimpl
def on_failure(prepared, error, directory):
    note(prepared, hook="on_failure", error=str(error))
"""
RECIPE = '[[stages]]\ntechnique = "pruning"\nfinetune = { epochs = 1 }\n[[plugins]]\nname = "recorder"\n'


def told(outcome):
    return [json.loads(line) for line in (outcome.directory / "told.jsonl").read_text().splitlines()]


@pytest.mark.smoke
def test_it_is_told_everything_in_order_and_adds_to_every_row(make_plugin, recipe_run):
    make_plugin("recorder", RECORDER)
    outcome = recipe_run(RECIPE)
    assert outcome.error == ""
    said = told(outcome)
    order = [(item["hook"], item.get("stage")) for item in said if item["hook"] not in ("on_step", "on_epoch")]
    stages = [("on_stage", 0), ("on_row", 0), ("on_stage", 1), ("on_row", 1)]
    assert order == [*stages, ("on_end", None)]
    steps = [item["step"] for item in said if item["hook"] == "on_step" and item["stage"] == 1]
    assert steps == list(range(1, 5))  # 512 samples in batches of 128
    epochs = [item for item in said if item["hook"] == "on_epoch"]
    assert [(item["stage"], item["epoch"], item["epochs"]) for item in epochs] == [(0, 1, 2), (0, 2, 2), (1, 1, 1)]
    series = [outcome.rows[item["stage"]]["validation_loss"][item["epoch"] - 1] for item in epochs]
    assert [item["validation"] and item["validation"]["loss"] for item in epochs] == series
    losses = [outcome.rows[item["stage"]]["training_loss"][item["epoch"] - 1] for item in epochs]
    assert [item["loss"] for item in epochs] == losses
    assert [item["rows"] for item in said if "rows" in item] == [1, 2, 2]
    assert said[-1]["there"]
    assert [row["recorder.weights"] for row in outcome.rows] == [2212, 2212]
    assert outcome.rows[1]["recorder.why"].text == "as it is"


def test_a_failure_is_told_and_changes_no_sentence(make_plugin, recipe_run):
    make_plugin("recorder", RECORDER + "    raise RuntimeError('worse')\n")
    make_plugin("boom", "import toolkit\n@toolkit.hookimpl\ndef optimize(model):\n    raise ValueError('bad')\n")
    outcome = recipe_run(RECIPE + '[[stages]]\ntechnique = "boom"')
    assert outcome.error.startswith("stage 2 (boom): 'boom' (boom-plugin 1.0) failed in optimize with ValueError: bad")
    assert told(outcome)[-1] == {"hook": "on_failure", "error": outcome.error}
    assert "failed in on_failure with RuntimeError: worse" in outcome.log


def test_an_interruption_is_told_too(make_plugin, recipe_run, tmp_path):
    make_plugin("recorder", RECORDER)
    make_plugin(
        "stop", "import toolkit\n@toolkit.hookimpl\ndef optimize(model):\n    raise KeyboardInterrupt('enough')\n"
    )
    with pytest.raises(KeyboardInterrupt):
        recipe_run(RECIPE.replace("pruning", "stop"))
    last = json.loads((tmp_path / "run" / "told.jsonl").read_text().splitlines()[-1])
    assert last == {"hook": "on_failure", "error": "enough"}


def test_drawing_numbers_in_a_plugin_changes_no_model(make_plugin, recipe_run):
    make_plugin("recorder", RECORDER.replace("    return {", "    import torch; torch.rand(3)\n    return {"))
    first = recipe_run(RECIPE.replace('[[plugins]]\nname = "recorder"\n', ""), output="alone")
    second = recipe_run(RECIPE, output="watched")
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_params_of_a_plugin_are_checked_with_their_place(make_plugin, recipe_run):
    make_plugin("recorder", RECORDER)
    outcome = recipe_run(RECIPE + "params = { colour = 1 }")
    assert outcome.error == "recipe.toml: plugins.1.params.colour: is not a known key"
