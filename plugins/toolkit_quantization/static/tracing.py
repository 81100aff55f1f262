"""From the Python code of a network to a static network, where its operations can be told from the code alone."""

from __future__ import annotations

import builtins
import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _assert_is_none
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit_quantization.static.functions import ATTRIBUTES, METHODS, name_of
from toolkit_quantization.static.network import StaticNetwork
from toolkit_quantization.static.program import Operation, Program, Ref


class UntraceableError(Exception):
    """The operations of a network cannot be told from its code; the message says why, without a place."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  # torch's signature
        kind = parametrize.type_before_parametrizations(m)
        is_of_torch = kind.__module__.startswith("torch.nn") and not issubclass(kind, nn.Sequential)
        is_simple = kind.__module__.startswith("torchvision.ops") and not m._modules  # stochastic depth, for example
        return is_of_torch or is_simple or hasattr(m, "replaces") or isinstance(m, StaticNetwork)


def traced(model: nn.Module) -> StaticNetwork:
    """Return a network of the model's own layers, at their paths, that computes what the model does in eval mode.

    Raises:
        UntraceableError: the model's control flow depends on its inputs, or it uses an operation that is not known.
    """
    graph = _graph(model)
    program = tuple(_operation(node) for node in graph.nodes)
    try:
        network = StaticNetwork({each.target: _part(model, each) for each in program if _is_part(each)}, program)
    except TypeError as error:
        raise UntraceableError(str(error)) from error
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # a flag of activations, no tensor
    return network.train(model.training)


def described(model: nn.Module) -> Program:
    """Return the operations of a model, also those that a static network does not have.

    Raises:
        UntraceableError: the model's control flow depends on its inputs.
    """
    return tuple(_described(node) for node in _graph(model).nodes)


def _described(node: fx.Node) -> Operation:
    try:
        return _operation(node)
    except UntraceableError:
        called = getattr(node.target, "__qualname__", str(node.target))
        return Operation(node.name, "function", called, *_plain((node.args, node.kwargs)))


def _graph(model: nn.Module) -> fx.Graph:
    """Return the operations; if switches decide which, those of their defaults, and the network does not take them."""
    failures: list[Exception] = []
    for fixed in (None, _switches(model)):
        try:
            return _without_switches(_Tracer().trace(model, fixed))
        except Exception as error:  # whatever the code of a network raises on symbols instead of tensors
            failures.append(error)
    first = failures[0]
    raise UntraceableError(str(first).strip().partition("\n")[0] or type(first).__name__) from first


def _switches(model: nn.Module) -> dict[str, Any]:
    """Return the arguments whose defaults are no tensors and no numbers, such as `embed=False`, with these defaults."""
    arguments = inspect.signature(model.forward).parameters.values()
    return {each.name: each.default for each in arguments if each.default is None or isinstance(each.default, bool)}


def _without_switches(graph: fx.Graph) -> fx.Graph:
    """Remove what torch.fx puts into a graph to check that fixed arguments have the values that it was traced with."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in (torch._assert, _assert_is_none):
            compared = node.args[0]
            graph.erase_node(node)
            for left in (compared, *compared.args[:1]):
                if isinstance(left, fx.Node) and not left.users:
                    graph.erase_node(left)
    return graph


def static(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """Return a copy in which every part that can be traced is a static network, and why the other parts are none.

    The whole model is one, or else each of its `nn.Sequential`s: what those compute is certain.
    """
    twin = masks.clone(model)
    reasons: dict[str, str] = {}
    return _static(twin, "", reasons), reasons


def _static(model: nn.Module, path: str, reasons: dict[str, str]) -> nn.Module:
    if not path or isinstance(model, nn.Sequential):
        try:
            return traced(model)
        except UntraceableError as error:
            reasons[path] = str(error)
    for name, child in model.named_children():
        if not isinstance(child, StaticNetwork):
            model._modules[name] = _static(child, f"{path}.{name}".lstrip("."), reasons)
    return model


def _is_part(operation: Operation) -> bool:
    return operation.kind in ("layer", "tensor")


def _part(model: nn.Module, operation: Operation) -> nn.Module | Tensor:
    if operation.kind == "layer":
        return model.get_submodule(operation.target)
    prefix, _, name = operation.target.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(prefix), name)
    return tensor


def _operation(node: fx.Node) -> Operation:
    args, kwargs = _plain((node.args, node.kwargs))
    kwargs.pop("inplace", None)
    if node.op == "placeholder":
        if str(node.target).startswith("*"):
            raise UntraceableError(f"it takes any number of arguments ({node.target})")
        return Operation(node.name, "input", str(node.target), args)
    if node.op == "call_module":
        return Operation(node.name, "layer", str(node.target), args, kwargs)
    if node.op == "get_attr":
        return Operation(node.name, "tensor", str(node.target))
    if node.op == "output":
        return Operation(node.name, "output", "", args)
    return _call(node, args, kwargs)


def _call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation:
    if node.op == "call_method":
        target = str(node.target).removesuffix("_")
        if target in METHODS:
            return Operation(node.name, "method", target, args, kwargs)
        raise UntraceableError(f"it calls the method {node.target} of a tensor, which a static network does not have")
    function: Any = node.target
    if function is builtins.getattr and args[1] in ATTRIBUTES:
        return Operation(node.name, "attribute", args[1], args[:1])
    name = name_of(function)
    if name is None:
        called = getattr(function, "__qualname__", str(function))
        raise UntraceableError(f"it calls {called}, which a static network does not have")
    return Operation(node.name, "function", name, args, kwargs)


def _plain(value: Any) -> Any:
    """Return arguments with references instead of nodes, and plain lists and dictionaries instead of torch.fx's."""
    if isinstance(value, fx.Node):
        return Ref(value.name)
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_plain(part) for part in (value.start, value.stop, value.step)))
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value
