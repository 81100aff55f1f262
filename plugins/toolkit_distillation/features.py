"""What modules inside a network return, caught by hooks that are gone afterwards; and which modules there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import toolkit

SAMPLES = 3  # of a probe; hardly ever also the length of a sequence
# Modules whose outputs of three dimensions are (N, C, L); of all others they are (N, L, C).
CHANNELS_FIRST = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)


class Probe(NamedTuple):
    """The shapes of the features at each path, for three samples, and what is wrong with the other paths."""

    shapes: dict[str, torch.Size]
    problems: list[str]


@contextmanager
def catching(model: nn.Module, paths: Collection[str]) -> Iterator[dict[str, list[Any]]]:
    """By path what the module returns in every pass inside, as float32 copies: another may change it in place.

    No hook is left behind, whatever happens, and what was caught is let go.
    """
    caught: dict[str, list[Any]] = {path: [] for path in paths}
    with ExitStack() as hooks:
        hooks.callback(caught.clear)
        for path, found in caught.items():
            hooks.callback(model.get_submodule(path).register_forward_hook(_keeping(found)).remove)
        yield caught


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients inside."""
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        model.train(was_training)


def probe(model: nn.Module, data: toolkit.Data, paths: Collection[str], who: str) -> Probe:
    """Run a model on three samples; `who` it is, is said in the problems. The model stays as it is."""
    names = paths_in(model)
    problems = missing(paths, names, who)
    with evaluated(model), catching(model, [path for path in paths if path in names]) as caught:
        data.task.forward(model, data.example(SAMPLES))
        wrong = {path: problem for path, found in caught.items() if (problem := _problem(found))}
        right = {path: found for path, found in caught.items() if path not in wrong}
        shapes = {path: features.shape for path, features in arranged(model, right).items()}
    return Probe(shapes, problems + [f"'{path}' of {who} {problem}" for path, problem in wrong.items()])


def arranged(model: nn.Module, caught: Mapping[str, list[Any]]) -> dict[str, Tensor]:
    """What was caught of one pass as (N, C, …), by path: sequences (N, L, C) become (N, C, L)."""
    features: dict[str, Tensor] = {}
    for path, found in caught.items():
        if problem := _not_one(found):
            raise toolkit.TechniqueError(f"'{path}' {problem}")
        tensor = found[0]
        is_sequence = tensor.dim() == 3 and not isinstance(model.get_submodule(path), CHANNELS_FIRST)
        features[path] = tensor.transpose(1, 2) if is_sequence else tensor
    return features


def paths_in(model: nn.Module) -> list[str]:
    """The paths of all modules of a model but for those that a parametrization brings."""
    return [path for path, _ in model.named_modules(remove_duplicate=False) if path and "parametrizations" not in path]


def missing(paths: Collection[str], names: Collection[str], who: str) -> list[str]:
    """A sentence, with close names, on each path that is none of the names."""
    problems = []
    for path in (path for path in paths if path not in names):
        close = get_close_matches(path, names, n=3, cutoff=0.5)
        hint = f"close are {', '.join(close)}" if close else f"it has {', '.join(list(names)[:10])}"
        problems.append(f"{who} has no module '{path}' ({hint})")
    return problems


def first_tensor(outputs: Any) -> Tensor | None:
    """The first tensor in what a module returned: a tensor, a tuple, a dictionary, a dataclass, or nested ones."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        outputs = tuple(outputs.values())
    elif hasattr(outputs, "__dict__") and not isinstance(outputs, (tuple, list)):
        outputs = tuple(vars(outputs).values())
    if not isinstance(outputs, (tuple, list)):
        return None
    return next((tensor for inner in outputs if (tensor := first_tensor(inner)) is not None), None)


def _keeping(found: list[Any]) -> Any:
    def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
        tensor = first_tensor(outputs)
        found.append(None if tensor is None else tensor.to(torch.float32, copy=True))

    return hook


def _not_one(found: list[Any]) -> str:
    """Why what a path gave in one pass is not one tensor, in words that follow the path; empty if it is."""
    if not found:
        return "does not run in a pass through the model"
    if len(found) > 1:
        return f"runs {len(found)} times in one pass: name a module that runs once"
    return "" if found[0] is not None else "returns no tensor"


def _problem(found: list[Any]) -> str:
    """The same, or why the tensor has no features of each of the samples."""
    if problem := _not_one(found):
        return problem
    shape = tuple(found[0].shape)
    if 2 <= len(shape) <= 5 and shape[0] == SAMPLES and 0 not in shape:
        return ""
    return f"returns {shape} for {SAMPLES} samples, which have to come first, each with values"
