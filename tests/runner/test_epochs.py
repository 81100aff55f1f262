"""Validation while a stage is trained: how often, what is told of it, and that it leaves no trace in the training."""

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.runner import epochs as module
from toolkit.runner.epochs import MAX_TIME_FRACTION, Epochs, stored_epochs
from toolkit.runner.validation import primary_text, validation_metrics
from toolkit.testing import toy_data
from toolkit.training import Training, TrainingSettings, fit
from toolkit.training.step import Progress


class Merging(nn.Linear):
    """A layer that adds to its weight in eval mode and subtracts again, as LoRA merges; the bits are not the same."""

    def train(self, mode: bool = True):
        if mode != self.training:
            with torch.no_grad():
                self.weight.add_(-1 / 3 if mode else 1 / 3)
        return super().train(mode)


class Counting(nn.Module):
    """It counts its calls in every mode, in one buffer in place and in another one anew, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("more", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        self.more = self.more + 1
        noise = torch.randn(()) + np.random.rand() + random.random()
        return inputs + 1e-3 * (self.calls + self.more + noise)


def network(last: type[nn.Linear] = nn.Linear) -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), Counting(), nn.Dropout(0.25), nn.Flatten(), last(144, 4)
    return nn.Sequential(*layers)


class Noisy(torch.utils.data.Dataset):
    """A dataset that augments with the generators of NumPy and Python."""

    def __init__(self, split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split[1])

    def __getitem__(self, position):
        return self.split[0][position] + float(np.random.rand() + random.random()), self.split[1][position]


def generators():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


STAGE = SimpleNamespace(number=1, name="toy", label="stage 1 (toy)", finetune=SimpleNamespace(epochs=4))

NOTHING_ADDED = Training(TrainingSettings(), toy_data(64).task.loss)


def trained(model, data, epochs=None):
    torch.manual_seed(2), np.random.seed(3), random.seed(4)
    settings = TrainingSettings(epochs=4, lr=1e-2, optimizer="sgd")
    losses = fit(model, Training(settings, data.task.loss), data, after_epochs=epochs)
    return losses, {name: tensor.clone() for name, tensor in model.state_dict().items()}, generators()


@pytest.mark.parametrize("last", [nn.Linear, Merging])
@pytest.mark.parametrize("in_memory", [True, False])
def test_not_a_bit_of_the_training_changes(last, in_memory):
    data = toy_data(128)
    if not in_memory:
        data = Data(train=Noisy(data.train), validation=Noisy(data.validation), test=None)
    losses, state, drawn = trained(network(last), data)
    epochs = Epochs(STAGE, data, lambda **_: None)
    other_losses, other_state, other_drawn = trained(network(last), data, epochs)
    assert other_losses == losses
    assert all(torch.equal(tensor, state[name]) for name, tensor in other_state.items())
    assert other_drawn == drawn
    assert {name: len(series) for name, series in epochs.series.items()} == {"accuracy": 4, "loss": 4}
    assert None not in epochs.series["loss"]


def test_every_module_is_back_in_its_mode_and_gradients_stay():
    model, data = network().train(), toy_data(64)
    model[1].eval()
    data.task.loss(data.task.forward(model, data.example(8)), data.example(8)).backward()
    before, modes = copy.deepcopy([each.grad for each in model.parameters()]), [m.training for m in model.modules()]
    metrics = validation_metrics(model, data, NOTHING_ADDED)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(each.grad, grad) for each, grad in zip(model.parameters(), before, strict=True))
    assert list(metrics) == ["accuracy", "loss"]


class Halved(nn.Module):
    """A function of a weight: half of it, and nothing in train mode; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight):
        self.calls += 1
        return weight * (0.0 if self.training else 0.5)


@pytest.mark.parametrize("last", [nn.Linear, Merging])
def test_the_network_is_validated_as_it_sees_its_weights(last):
    data, half = toy_data(64), Halved()
    model = nn.Sequential(nn.Flatten(), last(64, 4)).eval()
    metrics = validation_metrics(model, data, NOTHING_ADDED.using(weights={"1.weight": half}))
    assert (half.calls, half.training) == (0, True)
    before = validation_metrics(model, data, NOTHING_ADDED)
    with torch.no_grad():
        model[1].weight *= 0.5
    assert validation_metrics(model, data, NOTHING_ADDED) == metrics != before


class Clock:
    """A clock by which each validation takes so many seconds."""

    def __init__(self, validation_s: float) -> None:
        self.now_s, self.validation_s = 0.0, validation_s

    def __call__(self) -> float:
        self.now_s += self.validation_s
        return self.now_s


@pytest.mark.parametrize(
    ("validation_s", "expected"),
    [
        (0.4, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0.5, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (1.2, [1, 4, 7, 10]),
        (2.0, [1, 5, 9, 10]),
        (60.0, [1, 10]),
    ],
)
def test_validation_takes_a_twentieth_of_the_time(monkeypatch, validation_s, expected):
    monkeypatch.setattr(module, "MAX_TIME_FRACTION", MAX_TIME_FRACTION)
    stage = SimpleNamespace(number=1, name="toy", label="", finetune=SimpleNamespace(epochs=10))
    epochs = Epochs(stage, toy_data(64), lambda **_: None, clock=Clock(validation_s))
    progress, stepper = Progress(order_seed=0), SimpleNamespace(model=network().eval(), training=NOTHING_ADDED)
    epochs.begin(progress)
    for epoch in range(1, 11):
        progress.epoch = epoch
        progress.losses.append(1.0)
        epochs.after_epoch(stepper, progress, epoch_s=10.0)
    assert [epoch for epoch, value in enumerate(epochs.series["loss"], start=1) if value is not None] == expected


def test_without_a_validation_split_epochs_are_told_of_all_the_same(caplog):
    told = []
    data = Data(train=toy_data(64).train, test=toy_data(64).test)
    epochs = Epochs(STAGE, data, lambda **arguments: told.append(arguments))
    with caplog.at_level("INFO", logger="toolkit"):
        losses, *_ = trained(network(), data, epochs)
    assert told == [{"epoch": n, "epochs": 4, "loss": loss, "validation": None} for n, loss in enumerate(losses, 1)]
    assert epochs.series == {}
    assert f"stage 1 (toy): epoch 1 of 4, training loss {losses[0]:.4f}, about " in caplog.messages[0]


def test_a_validation_that_fails_is_a_warning(caplog):
    def fails(outputs, batch):
        raise ValueError("no answer")

    data = toy_data(64)
    data = Data(train=data.train, validation=data.validation, metrics={"mine": fails})
    losses, *_ = trained(network(), data, epochs := Epochs(STAGE, data, lambda **_: None))
    assert len(losses) == 4
    assert epochs.series == {}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["stage 1 (toy): cannot validate during the training (ValueError: no answer)"]


def test_the_first_metric_in_words():
    assert primary_text({"accuracy": 0.98125, "loss": 0.1}) == "validation accuracy 98.12 %"
    assert primary_text({"loss": 0.12345}) == "validation loss 0.1235"
    assert primary_text({"loss": None}) == "validation loss not finite"


def test_a_finished_stage_tells_of_its_epochs_as_they_were():
    values = {"training_loss": [2.0, 1.0], "validation_loss": [None, 1.5], "validation_accuracy": [None, None]}
    assert list(stored_epochs(values)) == [
        {"epoch": 1, "epochs": 2, "loss": 2.0, "validation": None},
        {"epoch": 2, "epochs": 2, "loss": 1.0, "validation": {"loss": 1.5, "accuracy": None}},
    ]
    assert list(stored_epochs({})) == []
