"""What the guide says in words about modes, batches, masks and promises, tried out."""

from dataclasses import replace

import pytest
import torch

from toolkit import masks
from toolkit.testing import toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

MODES = """
import toolkit

modes = {}


@toolkit.hookimpl
def prepare(model, reference):
    modes.update(prepare=model.training, reference=reference.training)


@toolkit.hookimpl
def optimize(model):
    modes.setdefault("optimize", []).append(model.training)
    return model.train()


@toolkit.hookimpl
def finetune(model, training):
    modes.setdefault("finetune", []).append(model.training)

    def loss(outputs, batch):
        modes["loss"] = model.training
        return training.loss(outputs, batch)

    return training.using(loss=loss, after_step=lambda step, steps: modes.update(after_step=model.training))


@toolkit.hookimpl
def finish(model):
    modes["finish"] = model.training
    return model.train()


@toolkit.hookimpl
def measure(model):
    return {"modes": toolkit.Note(repr([*modes.items(), ("measure", model.training)]))}
"""


def test_the_modes_in_which_hooks_get_the_model(make_plugin, recipe_run):
    make_plugin("modes", MODES)
    outcome = recipe_run('[[stages]]\ntechnique = "modes"\nwith = [{ technique = "modes" }]\nfinetune = { epochs = 1 }')
    assert dict(eval(outcome.rows[1]["modes.modes"].text)) == {
        **{"prepare": False, "reference": False, "optimize": [False, True], "finetune": [True, True]},
        **{"loss": True, "after_step": True, "finish": False, "measure": False},
    }


def test_batches_of_train_come_in_order_and_unchanged_and_the_training_shuffles_and_augments():
    data = replace(toy_data(128), augment=lambda inputs: inputs + 100)
    read = list(data.batches("train"))
    assert torch.equal(torch.cat([batch.index for batch in read]), torch.arange(128))
    assert torch.equal(torch.cat([batch.inputs for batch in read]), data.train[0])
    trained = []

    def loss(outputs, batch):
        trained.append(batch)
        return data.task.loss(outputs, batch)

    fit(toy_mlp(), Training(TrainingSettings(), loss), data)
    index = torch.cat([batch.index for batch in trained])
    assert not torch.equal(index, torch.arange(128))
    assert torch.equal(index.sort().values, torch.arange(128))
    assert all(torch.equal(batch.inputs, data.train[0][batch.index] + 100) for batch in trained)


def test_a_mask_of_after_step_counts_from_the_next_step():
    data, model, seen = toy_data(256), toy_mlp(), []
    plan = Training(TrainingSettings(), data.task.loss)

    def loss(outputs, batch):
        seen.append(int((model[1].weight == 0).sum()))
        return plan.loss(outputs, batch)

    def mask(step, steps):
        kept = torch.ones_like(model[1].weight, dtype=torch.bool)
        kept.view(-1)[: 10 * step] = False
        masks.apply(model, {"1.weight": kept})

    fit(model, plan.using(loss=loss, after_step=mask), data)
    assert seen == [0, 10, 20, 30]


@pytest.mark.parametrize("shape", ["same", "other"])
def test_a_promise_ends_where_the_shape_of_its_weight_changes(make_plugin, recipe_run, shape):
    size = 32 if shape == "same" else 16
    make_plugin(
        "narrow",
        "import toolkit\nfrom torch import nn\n@toolkit.hookimpl\ndef optimize(model):\n"
        f"    model[1], model[3] = nn.Linear(64, {size}), nn.Linear({size}, 4)\n    return model",
    )
    stages = '[[stages]]\ntechnique = "pruning"\nparams = { layers = ["1"] }\n[[stages]]\ntechnique = "narrow"'
    outcome = recipe_run(stages)
    if shape == "same":
        assert "refilled zeros" in outcome.error
    else:
        assert "its shape changed: earlier promises end here (zeros in 1 weight)" in outcome.rows[2]["ended"].text
