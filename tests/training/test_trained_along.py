"""Helper modules with a learning rate and a weight decay of their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit import Batch
from toolkit.interruption import Stop
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.run_directory import RunDirectory
from toolkit.testing import toy_data, toy_mlp
from toolkit.training import TrainedAlong, Training, TrainingSettings, fit

SGD: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.01}


class Helper(nn.Module):
    """One parameter, whose gradient is 1 in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


def plan_with(helper: nn.Module, along: Any, **settings: Any) -> Training:
    def loss(outputs: Any, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch.targets) + sum(p.sum() for p in helper.parameters())

    return Training(TrainingSettings(**SGD | settings), loss).using(trained_along=along)


def path_of(along: dict[str, float], **settings: Any) -> list[float]:
    """The helper's value after each step."""
    helper, values = Helper(), []
    plan = plan_with(helper, TrainedAlong(helper, **along), **settings)
    fit(toy_mlp(), plan.using(after_step=lambda _step, _steps: values.append(helper.value.item())), toy_data(256))
    return values


def test_a_helper_learns_at_a_rate_of_its_own() -> None:
    assert path_of({"lr": 0.5}, schedule="constant") == pytest.approx([-0.5, -1.0, -1.5, -2.0])
    assert path_of({}, schedule="constant") == pytest.approx([-0.01, -0.02, -0.03, -0.04])


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_the_schedule_scales_its_rate_too(schedule: str) -> None:
    own, common = path_of({"lr": 0.5}, schedule=schedule), path_of({}, schedule=schedule)
    assert own == pytest.approx([50 * value for value in common], rel=1e-4)
    assert common != pytest.approx([-0.01, -0.02, -0.03, -0.04], rel=1e-2)


def test_a_helper_decays_by_a_factor_of_its_own() -> None:
    values = path_of({"weight_decay": 0.5}, schedule="constant", lr=0.1, weight_decay=0.0)
    expected, value = [], 0.0
    for _ in values:
        value -= 0.1 * (1 + 0.5 * value)
        expected.append(value)
    assert values == pytest.approx(expected)


def recorder(rates: list[float]) -> Callable[[int, int, float, float], None]:
    return lambda _step, _steps, _loss, lr: rates.append(lr)


def test_the_model_learns_as_without_them_and_its_rate_is_told() -> None:
    models, rates = [], []
    for along in ({}, {"lr": 0.5, "weight_decay": 0.1}):
        torch.manual_seed(0)
        model, helper, told = toy_mlp(), Helper(), list[float]()
        fit(model, plan_with(helper, TrainedAlong(helper, **along)), toy_data(128), recorder(told))
        models.append(model)
        rates.append(told)
    assert all(torch.equal(one, other) for one, other in zip(*(m.parameters() for m in models), strict=True))
    assert rates[0] == rates[1]
    assert max(rates[0]) <= 0.01


def test_layers_of_the_model_keep_the_settings_of_the_model() -> None:
    model, helper = toy_mlp(), Helper()
    helper.layer = model[1]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    plan = plan_with(Helper(), TrainedAlong(helper, lr=1e4), schedule="constant", lr=1e-6)
    fit(model, plan, toy_data(64))
    assert all(torch.allclose(parameter, before[name], atol=1e-3) for name, parameter in model.named_parameters())


def test_an_interrupted_training_resumes_with_the_same_rates(tmp_path: Any) -> None:
    def trained(stop_at: int, folder: Any) -> tuple[float, list[float]]:
        torch.manual_seed(0)
        folder.mkdir(exist_ok=True)
        stop, helper, rates = Stop(), Helper(), list[float]()

        def on_step(step: int, _steps: int, _loss: float, lr: float) -> None:
            rates.append(lr)
            if step == stop_at:
                stop.handle(2, None)

        plan = plan_with(helper, TrainedAlong(helper, lr=0.5), epochs=3, optimizer="adamw")
        fit(toy_mlp(), plan, toy_data(128), on_step, TrainingCheckpoints(RunDirectory(folder), "key", stop))
        return helper.value.item(), rates

    whole = trained(0, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(2, tmp_path / "stopped")
    assert trained(0, tmp_path / "stopped") == whole


@pytest.mark.parametrize(
    ("along", "error", "sentence"),
    [
        (torch.ones(3), TypeError, "`trained_along` must be an nn.Module or a TrainedAlong, found a tensor; make it a"),
        (nn.Parameter(torch.ones(3)), TypeError, "found a tensor; make it a parameter of a module"),
        ([nn.Linear(1, 1)], TypeError, "`trained_along` must be an nn.Module or a TrainedAlong, found list"),
        ((nn.Linear(1, 1), {"lr": 1.0}), TypeError, "found tuple"),
    ],
)
def test_what_is_no_module_is_refused(along: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as failure:
        Training(TrainingSettings(), toy_data(8).task.loss).using(trained_along=along)
    assert sentence in str(failure.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"lr": 0.0}, "must be greater than 0, found 0.0"), ({"weight_decay": -1.0}, "must be at least 0, found -1.0")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TrainedAlong(nn.Linear(1, 1), **settings)
