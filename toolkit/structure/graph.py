"""The network as a graph of `torch.fx`: its layers stay whole, and everything between them becomes operations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from toolkit import patterns, tracing
from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.structure.heads import rule_of
from toolkit.structure.layers import kind_of
from toolkit.structure.recording import UnrecordableError, record
from toolkit.structure.slots import SAMPLES

NETWORK = "network"


class Graph(NamedTuple):
    """A traced network: `root` holds it as `network`, and the graph takes the list of its input tensors."""

    root: nn.Module
    graph: fx.Graph
    inputs: list[Tensor]


def trace(model: nn.Module, data: Data, exclude: Sequence[str]) -> Graph:
    """Trace a network as its task calls it; where that fails, with the excluded modules as layers of their own.

    Where `torch.fx` cannot follow its forward, the graph is that of a run on two samples.

    Args:
        model: in eval mode, without masks; not changed.
        data: its task runs the model on two samples.
        exclude: patterns of the modules that need not be traced.

    Raises:
        TechniqueError: the network cannot be traced; names the module and what to exclude.
    """
    root, inputs = _called(model, data)
    for tracer in (_Tracer(()), _Tracer(exclude)):
        with suppress(Exception), tracing.quiet():
            return Graph(root, tracer.trace(root), inputs)

    def is_excluded(path: str) -> bool:
        return patterns.match(with_parents(own_path(path)), exclude)

    with suppress(UnrecordableError):
        return Graph(root, record(root, inputs, _Tracer(()).is_leaf_module, is_excluded), inputs)
    try:
        return Graph(root, record(root, inputs, _Tracer(exclude).is_leaf_module, is_excluded), inputs)
    except UnrecordableError as error:
        path = own_path(error.path)
        remedy = f"{error.remedy} by exclude = ['{path}']" if path else "rewrite its forward"
        place = f"module '{path}'" if path else "the network"
        raise TechniqueError(f"{place} {error}; {remedy}") from error


class _Call(nn.Module):
    """Calls the network with tensors from a list, and everything else as the task passed it."""

    def __init__(self, network: nn.Module, spec: TreeSpec, leaves: Sequence[Any]) -> None:
        super().__init__()
        self.network = network
        self._spec, self._leaves = spec, list(leaves)

    def forward(self, inputs: Any) -> Any:
        leaves, position = [], 0
        for leaf in self._leaves:
            leaves.append(inputs[position] if isinstance(leaf, Tensor) else leaf)
            position += isinstance(leaf, Tensor)
        args, kwargs = tree_unflatten(leaves, self._spec)
        return self.network(*args, **kwargs)


def _called(model: nn.Module, data: Data) -> tuple[nn.Module, list[Tensor]]:
    """Return the network as the task calls it, and the tensors that it passes."""
    calls: list[Any] = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    try:
        with torch.no_grad():
            data.task.forward(model, data.example(SAMPLES))
    finally:
        hook.remove()
    if not calls:
        raise TechniqueError("the task does not call the network itself; its parts cannot be traced")
    leaves, spec = tree_flatten(calls[0])
    return _Call(model, spec, leaves).eval(), [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class _Tracer(fx.Tracer):
    """Keeps the layers of torch.nn whole, and modules that are excluded or stand for another layer."""

    def __init__(self, exclude: Sequence[str]) -> None:
        super().__init__()
        self._exclude = exclude

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        path = own_path(module_qualified_name)
        is_whole = hasattr(m, "replaces") or kind_of(m) is not None or rule_of(m) is not None
        return (
            is_whole
            or bool(path and patterns.match([path], self._exclude))
            or super().is_leaf_module(m, module_qualified_name)
        )


def with_parents(path: str) -> list[str]:
    """Return the paths of the modules around a path, and the path itself."""
    parts = path.split(".")
    return [".".join(parts[: length + 1]) for length in range(len(parts))]


def own_path(target: str) -> str:
    """Return the path in the network of what the graph calls by this name."""
    return target.removeprefix(NETWORK).removeprefix(".")
