"""Steps: what keeps other weights in shape survives them, and all that was asked for goes in a short training."""

from collections.abc import Callable
from typing import Any

import pytest
import toolkit_channels
import toolkit_codebook
from toolkit_channels import Findings, Params
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import toolkit
from toolkit.testing import toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(128)


def in_steps(model: nn.Module, epochs: int, data: toolkit.Data = DATA, **settings: Any) -> tuple[Any, Findings]:
    """Return the model after all hooks of a stage."""
    params, findings = Params(**settings), toolkit_channels.Findings()
    model = toolkit_channels.optimize(model=model.eval(), params=params, data=data, prepared=findings)
    training = Training(TrainingSettings(epochs=epochs, lr=1e-2), data.task.loss)
    training = toolkit_channels.finetune(model=model, params=params, data=data, prepared=findings, training=training)
    fit(model, training, data)
    return toolkit_channels.finish(model=model, params=params, data=data, prepared=findings), findings


def deep() -> nn.Sequential:
    """Return a network with two layers that can be cut whatever becomes of the last one."""
    return nn.Sequential(*toy_mlp(16)[:3], nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def shared(model: nn.Module) -> None:
    params = toolkit_codebook.Params(bits=2, layers=["7"])
    toolkit_codebook.optimize(model=model, params=params, prepared=toolkit_codebook.prepare())


@pytest.mark.parametrize(
    ("keep", "kind"), [(lambda model: weight_norm(model[7]), "_WeightNorm"), (shared, "Shared")], ids=["norm", "codes"]
)
def test_what_keeps_another_weight_in_shape_is_kept(keep: Callable[[nn.Module], None], kind: str) -> None:
    model = deep()
    keep(model)
    cut, findings = in_steps(model, epochs=1, amount=0.2, steps=2, round_to=1)
    assert cut[1].out_features < 16
    assert findings.kept["5"] == f"{kind} keeps '7.weight' in shape"
    assert kind in [type(part).__name__ for part in cut[7].parametrizations.weight]
    assert not any(parametrize.is_parametrized(layer) for layer in cut[:7])


@pytest.mark.parametrize(("steps", "samples"), [(3, 128), (10, 128), (2, 64), (5, 64)])
def test_all_that_was_asked_for_goes_in_a_training_with_fewer_steps(steps: int, samples: int) -> None:
    """Batches have 64 samples, so that there are two training steps, or one."""
    cut, findings = in_steps(toy_mlp(64), epochs=1, data=toy_data(samples), amount=0.6, steps=steps, round_to=1)
    assert 0.6 <= findings.gone < 0.63
    assert cut[1].out_features == round(64 * (1 - findings.gone))
