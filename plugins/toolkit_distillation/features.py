"""Captures what modules inside a network return, by hooks that are removed afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import toolkit
from toolkit_distillation.layout import channels_dim

PROBED_SAMPLES = 3  # unlikely to be the length of a sequence, too


class Probe(NamedTuple):
    """The shapes of the features at each usable path, for three samples, and a problem for each of the others."""

    shapes: dict[str, torch.Size]
    problems: list[str]


@contextmanager
def catching(model: nn.Module, paths: Collection[str]) -> Iterator[dict[str, list[Any]]]:
    """Yield what the module at each path returns in every pass inside, in float32 copies that nobody changes in place.

    Removes its hooks and drops what was caught, whatever happens.
    """
    caught: dict[str, list[Any]] = {path: [] for path in paths}
    with ExitStack() as hooks:
        hooks.callback(caught.clear)
        for path, outputs in caught.items():
            hooks.callback(model.get_submodule(path).register_forward_hook(_keeping(outputs)).remove)
        yield caught


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside."""
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        model.train(was_training)


def probe(model: nn.Module, data: toolkit.Data, paths: Collection[str], who: str) -> Probe:
    """Run a model on three samples and leave it unchanged; `who` names the model in problems."""
    names = paths_in(model)
    problems = missing(paths, names, who)
    with evaluated(model), catching(model, [path for path in paths if path in names]) as caught:
        data.task.forward(model, data.example(PROBED_SAMPLES))
        wrong = {path: problem for path, outputs in caught.items() if (problem := _problem(model, path, outputs))}
        right = {path: outputs for path, outputs in caught.items() if path not in wrong}
        shapes = {path: features.shape for path, features in arranged(model, right).items()}
    return Probe(shapes, problems + [f"'{path}' of {who} {problem}" for path, problem in wrong.items()])


def arranged(model: nn.Module, caught: Mapping[str, list[Any]]) -> dict[str, Tensor]:
    """Return features of one pass as (N, C, …), by path: (N, L, C) becomes (N, C, L), (N, H, W, C) (N, C, H, W)."""
    features: dict[str, Tensor] = {}
    for path, outputs in caught.items():
        if problem := _not_one(outputs):
            raise toolkit.TechniqueError(f"'{path}' {problem}")
        channels = channels_dim(model.get_submodule(path), model, outputs[0].shape)
        if channels is None:
            raise toolkit.TechniqueError(f"'{path}' {_no_channels(outputs[0])}")
        features[path] = outputs[0].movedim(channels, 1)
    return features


def paths_in(model: nn.Module) -> list[str]:
    """Return the paths of all modules of a model, except those that belong to a parametrization."""
    return [path for path, _ in model.named_modules(remove_duplicate=False) if path and "parametrizations" not in path]


def missing(paths: Collection[str], names: Collection[str], who: str) -> list[str]:
    """A sentence, with close names, for each path that is not among the names."""
    problems = []
    for path in (path for path in paths if path not in names):
        close = get_close_matches(path, names, n=3, cutoff=0.5)
        hint = f"close are {', '.join(close)}" if close else f"it has {', '.join(list(names)[:10])}"
        problems.append(f"{who} has no module '{path}' ({hint})")
    return problems


def first_tensor(outputs: Any) -> Tensor | None:
    """Return the first tensor in a module's outputs: a tensor, a tuple, a dictionary, a dataclass, or these nested."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        outputs = tuple(outputs.values())
    elif hasattr(outputs, "__dict__") and not isinstance(outputs, (tuple, list)):
        outputs = tuple(vars(outputs).values())
    if not isinstance(outputs, (tuple, list)):
        return None
    return next((tensor for inner in outputs if (tensor := first_tensor(inner)) is not None), None)


def _keeping(kept: list[Any]) -> Any:
    def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
        tensor = first_tensor(outputs)
        kept.append(None if tensor is None else tensor.to(torch.float32, copy=True))

    return hook


def _not_one(outputs: list[Any]) -> str:
    """Why the outputs of one pass are not one tensor, in words that follow the path; empty if they are."""
    if not outputs:
        return "does not run in a pass through the model"
    if len(outputs) > 1:
        return f"runs {len(outputs)} times in one pass: name a module that runs once"
    return "" if outputs[0] is not None else "returns no tensor"


def _no_channels(features: Tensor) -> str:
    shape = tuple(features.shape)[1:]
    return f"returns {shape} per sample, and its channels may be the first or the last dimension: name another module"


def _problem(model: nn.Module, path: str, outputs: list[Any]) -> str:
    """As `_not_one`, or why the tensor does not hold features of each sample."""
    if problem := _not_one(outputs):
        return problem
    shape = tuple(outputs[0].shape)
    if 2 <= len(shape) <= 5 and shape[0] == PROBED_SAMPLES and 0 not in shape:
        return _no_channels(outputs[0]) if channels_dim(model.get_submodule(path), model, shape) is None else ""
    return f"returns {shape} for {PROBED_SAMPLES} samples, but the samples must come first, each with values"
