"""A walk over the graph of a network, on one batch, that finds out which channels go together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from toolkit.data.splits import Data
from toolkit.structure.arguments import UnclearError
from toolkit.structure.arithmetic import ARITHMETIC
from toolkit.structure.graph import Graph, own_path, trace
from toolkit.structure.heads import Rule, rule_of
from toolkit.structure.layers import MAKERS, PASSING, kind_of
from toolkit.structure.shapes import SHAPES
from toolkit.structure.slots import Slots
from toolkit.structure.units import Units
from toolkit.structure.values import Operand, Weight, channels_in

RULES = {**ARITHMETIC, **SHAPES}
OF_TORCH = ("torch", "_operator", "builtins", "torchvision.ops.stochastic_depth")


def walk(model: nn.Module, data: Data, exclude: list[str]) -> Slots:
    """Return the slots of a network.

    Args:
        model: in eval mode and without masks (`toolkit.masks.folded`); not changed.
        data: its task runs the model on two samples.
        exclude: patterns of the modules that need not be traced.

    Raises:
        TechniqueError: the network cannot be traced.
    """
    graph = trace(model, data, exclude)
    slots = Slots(model, Units())
    with torch.no_grad():
        _Walk(graph, slots).run(graph.inputs)
    slots.keep_shared()
    return slots


class _Walk(fx.Interpreter):
    """Runs the graph, and follows what is known of each value."""

    def __init__(self, graph: Graph, slots: Slots) -> None:
        super().__init__(graph.root, graph=graph.graph)
        self.slots = slots
        self.known: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = fx.node.map_aggregate((n.args, n.kwargs), self._operand)
        value = super().run_node(n)
        self.known[n] = self._known(n, before[0], before[1], value)
        return value

    def _operand(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return Operand(argument, None)
        if not isinstance(argument, fx.Node):
            return argument
        return Operand(self.env[argument], self.known.get(argument))

    def _known(self, node: fx.Node, args: Any, kwargs: Any, value: Any) -> Any:
        try:
            return self._ruled(node, args, kwargs, value)
        except UnclearError as error:
            for channels in channels_in([args, kwargs]):
                self.slots.units.keep(channels.units, f"{self._name(node)} {error}".lstrip())
            return None

    def _ruled(self, node: fx.Node, args: Any, kwargs: Any, value: Any) -> Any:
        if node.op == "placeholder":
            return None
        if node.op == "get_attr":
            path = own_path(str(node.target))
            self.slots.read_directly.add(path)
            return Weight(path) if self.slots.has(path) else None
        if node.op == "output":
            raise UnclearError("they are outputs of the network")
        if node.op == "call_module":
            return self._layer(own_path(str(node.target)), args, kwargs, value)
        return self._operation(node, args, kwargs, value)

    def _layer(self, path: str, args: Any, kwargs: Any, value: Any) -> Any:
        layer = self.slots.model.get_submodule(path)
        tensors = [operand for operand in (*args, *kwargs.values()) if isinstance(operand, Operand)]
        channels = channels_in([args, kwargs])
        attention = rule_of(layer)
        if attention is not None:
            return self._attention(attention, path, layer, tensors)
        kind = kind_of(layer)
        rule = None if kind is None else MAKERS.get(kind, PASSING.get(kind) if channels else None)
        if rule is None and not channels:
            return None
        is_plain = len(tensors) == 1 and isinstance(tensors[0].value, Tensor)  # no initial state of a recurrent layer
        if rule is None or not is_plain or any(type(each) is tuple for each in (*args, *kwargs.values())):
            raise UnclearError("has no rule for channels")
        return rule(self.slots, path, layer, tensors[0].value, tensors[0].channels, value)

    def _attention(self, rule: Rule, path: str, layer: nn.Module, operands: list[Operand]) -> Any:
        for channels in channels_in(operands):
            self.slots.units.keep(channels.units, f"'{path}' has a fixed number of inputs")
        known = rule(self.slots, path, layer, [each.value for each in operands if isinstance(each.value, Tensor)])
        self.slots.attentions.append(path)
        return known

    def _operation(self, node: fx.Node, args: Any, kwargs: Any, value: Any) -> Any:
        name = _operation_name(node)
        if not channels_in([args, kwargs]):
            return None
        if name not in RULES:
            raise UnclearError("has no rule for channels")
        return RULES[name](self.slots, args, kwargs, value)

    def _name(self, node: fx.Node) -> str:
        if node.op == "output":
            return ""
        if node.op == "call_module":
            path = own_path(str(node.target))
            return f"layer '{path}' of kind {type(self.slots.model.get_submodule(path)).__name__}"
        return f"`{_operation_name(node)}` in forward"


def _operation_name(node: fx.Node) -> str:
    """Return the name of a function or method of torch, without the underscore of those that work in place."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    target: Any = node.target
    module = getattr(target, "__module__", None) or "torch"
    name = str(getattr(target, "__name__", target))
    is_of_torch = any(module == own or module.startswith(f"{own}.") for own in OF_TORCH)
    if not is_of_torch:
        return f"{module}.{name}"
    return name.strip("_") if name.startswith("__") else name if name.startswith("_") else name.rstrip("_")
