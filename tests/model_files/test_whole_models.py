"""Models taken apart with their parametrizations come back to be trained on exactly as they would have been."""

import copy

import pytest
import torch
from torch import nn

from toolkit import masks
from toolkit import model_files as artifact
from toolkit.seeding import reseed
from toolkit.tasks import Task
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(128)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.leave = nn.Linear(6, 4)

    def forward(self, inputs):
        return self.leave(self.lstm(inputs.flatten(1, 2))[0][:, -1])


class RecurrentTask(Task):
    def loss(self, outputs, batch):
        return nn.functional.cross_entropy(outputs, batch.targets)


def half_masked(model):
    weights = {}
    for weight in masks.named_weights(model):
        if weight.parameter.ndim > 1:
            weights[weight.path] = torch.arange(weight.parameter.numel()).view(weight.parameter.shape) % 2 == 0
    masks.apply(model, weights)
    return model


def weight_normed():
    model = toy_mlp()
    nn.utils.parametrizations.weight_norm(model[1])
    return model


MODELS = {
    "plain": toy_cnn,
    "masked": lambda: half_masked(toy_cnn()),
    "tied and masked": lambda: half_masked(TiedToy()),
    "weight norm": weight_normed,
    "masked LSTM": lambda: half_masked(Recurrent()),
}


def trained(model):
    reseed(3, 1)
    fit(model, Training(TrainingSettings(epochs=2, lr=1e-2), DATA.task.loss), DATA)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_goes_on_as_if_nothing_had_been(name):
    model = trained(MODELS[name]())
    model.get_parameter(next(iter(dict(model.named_parameters())))).requires_grad_(False)
    parts = artifact.take_apart(model, fold=False)
    back = artifact.put_together(parts, allow=[Recurrent])
    assert back.state_dict().keys() == model.state_dict().keys()
    flags = [[parameter.requires_grad for parameter in each.parameters()] for each in (model, back)]
    assert flags[0] == flags[1]
    batch = DATA.example(8)
    assert torch.equal(DATA.task.forward(back.eval(), batch), DATA.task.forward(model.eval(), batch))
    for path, mask in masks.current(model).items():
        assert torch.equal(masks.current(back)[path], mask)
    one, other = trained(model).state_dict(), trained(back).state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_model_that_was_taken_apart_is_left_alone():
    model = half_masked(toy_mlp())
    before = copy.deepcopy(model.state_dict())
    artifact.take_apart(model, fold=False)
    masks.apply(model, {"1.weight": torch.zeros(32, 64, dtype=torch.bool)})
    assert before.keys() == model.state_dict().keys()
    assert not masks.current(model)["1.weight"].any()


def test_functions_and_classes_come_from_trusted_modules_only():
    model = Recurrent()
    parts = artifact.take_apart(model, fold=False)
    with pytest.raises(artifact.ArtifactError, match="Recurrent"):
        artifact.put_together(parts)
    assert type(artifact.put_together(parts, trusted=[__name__])) is Recurrent
