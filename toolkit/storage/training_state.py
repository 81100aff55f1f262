"""The state of a training in progress as tensors and JSON: weights, optimizer, schedule, generators, progress."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.training.step import Progress, Stepper

State = tuple[dict[str, Tensor], dict[str, Any]]
COUNTERS = ("order_seed", "epoch", "step", "total", "samples", "losses", "validation", "next_validation")


def take_state(stepper: Stepper, progress: Progress) -> State:
    """Return everything that the training needs to resume exactly as if it had never stopped."""
    optimizer = stepper.optimizer.state_dict()
    tensors = {**_weights(stepper), **_optimizer_tensors(stepper), **_generators()}
    tensors["steps"] = torch.tensor(progress.steps, dtype=torch.float64).reshape(-1, 2)
    version, words, gauss = random.getstate()
    content = {
        "done": stepper.done,
        "settings": stepper.training.settings.model_dump(),
        "progress": {counter: getattr(progress, counter) for counter in COUNTERS},
        "schedule": _without_functions(stepper.schedule.state_dict()) if stepper.schedule is not None else None,
        "lr": [group["lr"] for group in optimizer["param_groups"]],
        "trainable": [parameter.requires_grad for parameter in stepper.model.parameters()],
        "python": [version, list(words), gauss],
        "numpy": _numpy_state(),
    }
    return tensors, content


def matches(stepper: Stepper, state: State) -> bool:
    """Return whether the weights of the state match the model; a technique may change its structure in training."""
    tensors, _ = state
    stored = {name: tensor.shape for name, tensor in tensors.items() if name.startswith(("model/", "module"))}
    return stored == {name: tensor.shape for name, tensor in _weights(stepper).items()}


@torch.no_grad()
def restore_state(stepper: Stepper, progress: Progress, state: State) -> None:
    """Restore a newly created training to the state that `take_state` recorded."""
    tensors, content = state
    for name, weight in _weights(stepper).items():
        weight.copy_(tensors[name])  # in place, to preserve the memory layout
    for parameter, trainable in zip(stepper.model.parameters(), content["trainable"], strict=True):
        parameter.requires_grad_(trainable)
    for key, tensor in tensors.items():
        if key.startswith("optimizer/"):
            _restore_optimizer(stepper, key, tensor)
    for group, rate in zip(stepper.optimizer.param_groups, content["lr"], strict=True):
        group["lr"] = rate
    stepper.done = content["done"]
    for counter, value in content["progress"].items():
        setattr(progress, counter, value)
    progress.steps = [(loss, lr) for loss, lr in tensors["steps"].tolist()]
    progress.schedule = content["schedule"]
    _restore_generators(tensors, content)


def _weights(stepper: Stepper) -> dict[str, Tensor]:
    """Return the parameters and buffers of the model and of the helper modules trained with it, each once."""
    modules: list[tuple[str, nn.Module]] = [("model", stepper.model)]
    modules += [(f"module{number}", module) for number, module in enumerate(stepper.training.modules)]
    return {
        f"{prefix}/{name}": tensor.detach()
        for prefix, module in modules
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }


def _optimizer_tensors(stepper: Stepper) -> dict[str, Tensor]:
    tensors = {}
    for number, parameter in enumerate(stepper.parameters):
        for name, value in stepper.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{number}/{name}"] = value
    return tensors


def _restore_optimizer(stepper: Stepper, key: str, tensor: Tensor) -> None:
    _, number, name = key.split("/", 2)
    parameter = stepper.parameters[int(number)]
    if tensor.shape == parameter.shape:  # a moment: fused kernels expect the parameter's layout
        tensor = torch.empty_like(parameter).copy_(tensor)
    stepper.optimizer.state[parameter][name] = tensor.to(parameter.device)


def _generators() -> dict[str, Tensor]:
    states = {"generator/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"generator/cuda{n}": state for n, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _restore_generators(tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["generator/cpu"])
    cuda = [name for name in tensors if name.startswith("generator/cuda")]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[f"generator/cuda{number}"] for number in range(len(cuda))])
    version, words, gauss = content["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(content["numpy"])


def _numpy_state() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=False)
    return {**state, "state": {**state["state"], "key": state["state"]["key"].tolist()}}


def _without_functions(state: dict[str, Any]) -> dict[str, Any]:
    """Return a schedule's state without its functions, which JSON cannot store and which do not change."""
    return {key: value for key, value in state.items() if not callable(value)}
