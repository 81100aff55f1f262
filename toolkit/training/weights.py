"""Weights that the network sees through functions during a step, `training.using(weights=…)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit.errors import did_you_mean
from toolkit.masks import Mask, Weight, named_weights
from toolkit.substitutes import Substitute, substituted
from toolkit.training.owners import Added, slot_error

MAX_HINT = 200  # characters: a large model has thousands of weights

Functions: TypeAlias = Mapping[str, Added[Callable[[Tensor], Tensor]]]


@contextmanager
def weight_functions(model: nn.Module, functions: Sequence[Functions]) -> Iterator[None]:
    """Let the model see its weights through the functions, and on leaving the weights themselves again.

    Hold it during the backward pass too: checkpointed activations are computed again there.
    """
    if not functions:
        yield
        return
    with substituted(_substitutes(model, functions)):
        yield


def _substitutes(model: nn.Module, functions: Sequence[Functions]) -> Iterator[Substitute]:
    weights = list(named_weights(model))
    chains: dict[int, list[Added[Any]]] = {}
    for added in functions:
        for tensor, function in _by_tensor(model, weights, added).items():
            chains.setdefault(tensor, []).append(function)
    results: dict[tuple[int, ...], Tensor] = {}
    for weight in weights:
        if id(weight.parameter) in chains:
            parts = _parametrizations(weight)
            # Layers that share a tensor see the same weight, unless they parametrize it differently.
            key = (id(weight.parameter), *map(id, parts))
            if key not in results:
                results[key] = _result(weight, parts, chains[id(weight.parameter)])
            yield Substitute(weight.path, weight.module, weight.attribute, results[key])


def _by_tensor(model: nn.Module, weights: Sequence[Weight], functions: Functions) -> dict[int, Added[Any]]:
    """Return the functions of one technique by the id of the tensor, each of which has one."""
    by_tensor: dict[int, Added[Any]] = {}
    for path, added in functions.items():
        weight = _find(model, weights, path)
        if weight is None:
            raise slot_error(added.owner, added.slot, f"names no weight of the model{_hint(path, weights)}")
        other = by_tensor.setdefault(id(weight.parameter), added)
        if other.function is not added.function:
            problem = f"and {other.slot} are different functions of one shared weight; pass one of them"
            raise slot_error(added.owner, added.slot, problem)
    return by_tensor


def _find(model: nn.Module, weights: Sequence[Weight], path: str) -> Weight | None:
    prefix, _, attribute = path.rpartition(".")
    try:
        module = model.get_submodule(prefix)  # a shared layer has several paths, one of which `weights` lists
    except AttributeError:
        return None
    return next((weight for weight in weights if weight.module is module and weight.attribute == attribute), None)


def _hint(path: str, weights: Sequence[Weight]) -> str:
    hint = did_you_mean(path, (weight.path for weight in weights))
    return hint if len(hint) <= MAX_HINT else "; masks.named_weights(model) lists all"


def _parametrizations(weight: Weight) -> list[nn.Module]:
    if not parametrize.is_parametrized(weight.module, weight.attribute):
        return []
    lists: Any = weight.module.parametrizations
    return list(lists[weight.attribute])


def _result(weight: Weight, parts: Sequence[nn.Module], chain: Sequence[Added[Any]]) -> Tensor:
    value = weight.parameter
    if parts:
        lists: Any = weight.module.parametrizations
        value = lists[weight.attribute]()  # not the attribute, which torch may cache
    for added in chain:
        result = added(value)
        _check(result, value, added)
        value = result
    for part in parts:
        if isinstance(part, Mask):
            value = part(value)
    return value


def _check(result: Any, weight: Tensor, added: Added[Any]) -> None:
    if not isinstance(result, Tensor):
        found = type(result).__name__
    elif (result.shape, result.dtype, result.device) != (weight.shape, weight.dtype, weight.device):
        found = _description(result)
    else:
        return
    raise slot_error(added.owner, added.slot, f"must return {_description(weight)}, found {found}")


def _description(tensor: Tensor) -> str:
    return f"a tensor of {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"
