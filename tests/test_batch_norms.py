"""Statistics of batch norms, estimated again: those of the train split, and nothing else changes."""

import dataclasses
from typing import Any

import pytest
import torch

import toolkit
from toolkit.testing import toy_cnn, toy_data, toy_mlp

DATA = toy_data(256)


@pytest.mark.smoke
def test_statistics_are_those_of_the_train_split() -> None:
    model: Any = toy_cnn()
    with torch.no_grad():
        model[1].running_mean.fill_(50)
        outputs = model[0](DATA.train[0])
    toolkit.reestimate(model.eval(), DATA)
    assert torch.allclose(model[1].running_mean, outputs.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[1].running_var, outputs.var((0, 2, 3)), rtol=0.05)
    assert model[1].momentum == 0.1


def test_a_batch_size_of_one_estimates_from_larger_batches() -> None:
    model: Any = toy_cnn().eval()
    single = dataclasses.replace(DATA, batch_size=1)
    outputs = model[0](DATA.train[0]).detach()
    toolkit.reestimate(model, single)
    assert torch.allclose(model[1].running_mean, outputs.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[1].running_var, outputs.var((0, 2, 3)), rtol=0.2)


def test_a_single_sample_has_no_statistics_and_changes_none() -> None:
    model: Any = toy_cnn().eval()
    with torch.no_grad():
        model[1].running_mean.fill_(0.5)
        model[1].running_var.fill_(2)
    toolkit.reestimate(model, DATA, samples=1)
    assert model[1].running_mean.tolist() == [0.5] * 8
    assert model[1].running_var.tolist() == [2] * 8
    assert torch.isfinite(model(DATA.train[0])).all()


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training: bool) -> None:
    model = toy_cnn().train(training)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    state = torch.get_rng_state()
    toolkit.reestimate(model, DATA, samples=64)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())
    assert [module.training for module in model.modules()] == [training] * 8
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_without_batch_norms_is_not_even_run() -> None:
    model = toy_mlp()
    model.forward = None  # type: ignore[assignment]
    toolkit.reestimate(model, DATA)
