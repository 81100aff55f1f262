"""Substitutes: tensors that layers see for a while instead of their weights.

A substitute shadows a weight and leaves everything else alone: `parameters()`, `state_dict()`, optimizers and
parametrizations are those of the weight itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize


class Substitute(NamedTuple):
    """A tensor that `module` sees instead of the weight `attribute`; `path` is that of the weight."""

    path: str
    module: nn.Module
    attribute: str
    tensor: Tensor


@contextmanager
def substituted(substitutes: Iterable[Substitute]) -> Iterator[None]:
    """Let every module see its substitute; on leaving, each of them sees its weight again."""
    placed: list[Substitute] = []
    flat_weights: dict[nn.RNNBase, tuple[Any, Any]] = {}
    try:
        for substitute in substitutes:
            layer = substitute.module
            if isinstance(layer, nn.RNNBase):
                flat_weights.setdefault(layer, (layer._flat_weights, layer._flat_weight_refs))
            _place(substitute)
            placed.append(substitute)
        yield
    finally:
        for substitute in placed:
            _remove(substitute)
        # A recurrent layer's forward pass lists the tensors that it uses.
        for rnn, (weights, references) in flat_weights.items():
            rnn._flat_weights, rnn._flat_weight_refs = weights, references


@contextmanager
def without_substitutes(model: nn.Module) -> Iterator[None]:
    """Let the layers of a model see their weights, and on leaving their substitutes again."""
    substitutes = list(substitutes_in(model))
    for substitute in substitutes:
        _remove(substitute)
    try:
        yield
    finally:
        for substitute in substitutes:
            _place(substitute)


def substitutes_in(model: nn.Module) -> Iterator[Substitute]:
    """Yield the substitutes that the layers of a model see at the moment."""
    for prefix, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        lists: Any = module.parametrizations if parametrize.is_parametrized(module) else ()
        for attribute in [*module._parameters, *lists]:
            tensor = _seen_by(module, attribute)
            if tensor is not None:
                yield Substitute(f"{prefix}.{attribute}".lstrip("."), module, attribute, tensor)


class _Constant(NamedTuple):
    """A parametrization's `forward` that returns the same tensor on every call."""

    tensor: Tensor

    def __call__(self) -> Tensor:
        return self.tensor


def _place(substitute: Substitute) -> None:
    _, module, attribute, tensor = substitute
    if parametrize.is_parametrized(module, attribute):
        # The class of a parametrized layer has a property, which calls this module.
        vars(_parametrization(module, attribute))["forward"] = _Constant(tensor)
    else:
        # Python looks here before it asks nn.Module.__getattr__ for the parameter.
        vars(module)[attribute] = tensor


def _remove(substitute: Substitute) -> None:
    _, module, attribute, _ = substitute
    # The layer may have become parametrized since, or have stopped to be.
    vars(module).pop(attribute, None)
    if parametrize.is_parametrized(module, attribute):
        vars(_parametrization(module, attribute)).pop("forward", None)


def _seen_by(module: nn.Module, attribute: str) -> Tensor | None:
    if not parametrize.is_parametrized(module, attribute):
        return vars(module).get(attribute)
    constant = vars(_parametrization(module, attribute)).get("forward")
    return constant.tensor if isinstance(constant, _Constant) else None


def _parametrization(module: nn.Module, attribute: str) -> nn.Module:
    lists: Any = module.parametrizations
    parametrization: nn.Module = lists[attribute]
    return parametrization
