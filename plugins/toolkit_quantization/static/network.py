"""A network that runs its operations one by one, so that roundings can lie between any two of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from toolkit import stored_as
from toolkit_quantization.static.functions import ATTRIBUTES, FUNCTIONS, METHODS
from toolkit_quantization.static.program import Operation, Program, dumped, loaded, mapped
from toolkit_quantization.static.quantizer import Quantizer

QUANTIZERS = "activation_quantizers"  # the path of the quantizers


@stored_as("quantization.StaticNetwork")
class StaticNetwork(nn.Module):
    """The layers of a network at their paths, and what it computes with them as plain data; it contains no code."""

    def __init__(self, parts: Mapping[str, nn.Module | Tensor], program: Program) -> None:
        """Take over layers, parameters and buffers by path; `program` calls them."""
        super().__init__()
        for path, part in parts.items():
            prefix, _, name = path.rpartition(".")
            parent = _parent(self, prefix)
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                parent.register_buffer(name, part)
            else:
                setattr(parent, name, part)
        self.text = dumped(program)

    @property
    def program(self) -> Program:
        """What the network computes."""
        return loaded(self.text)

    @program.setter
    def program(self, program: Program) -> None:
        self.text = dumped(program)

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """The quantizers by the name of the operation whose result they round."""
        held = self._modules.get(QUANTIZERS)
        parts = {} if held is None else held._modules
        return {name: part for name, part in parts.items() if isinstance(part, Quantizer)}

    def add_quantizers(self) -> None:
        """Add a quantizer without a range wherever the program rounds and there is none yet."""
        if QUANTIZERS not in self._modules:
            self.add_module(QUANTIZERS, nn.ModuleDict())
        held = self.get_submodule(QUANTIZERS)
        for operation in self.program:
            prefix, _, name = operation.target.rpartition(".")
            if prefix == QUANTIZERS and name not in held._modules:
                held.add_module(name, Quantizer())

    def drop_unused(self) -> None:
        """Remove the parts that the program does not use."""
        used = {operation.target for operation in self.program if operation.kind in ("layer", "tensor")}
        _drop(self, "", used)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        program = self.program
        values = _arguments(program, args, kwargs)
        last = {name: operation.name for operation in program for name in operation.inputs}
        for operation in program:
            if operation.kind != "input":
                values[operation.name] = self._result(operation, values)
            for name in operation.inputs:
                if last[name] == operation.name:  # large activations must not stay in memory
                    values.pop(name, None)
        return values[program[-1].name]

    def _layer(self, path: str) -> nn.Module:
        # Not `get_submodule`: torch.export wraps what it returns, and a layer cannot copy the wrapper.
        module: nn.Module = self
        for name in path.split("."):
            child = module._modules[name]
            assert child is not None
            module = child
        return module

    def _result(self, operation: Operation, values: Mapping[str, Any]) -> Any:
        args, kwargs = mapped((operation.args, operation.kwargs), values.__getitem__)
        if operation.kind == "layer":
            return self._layer(operation.target)(*args, **kwargs)
        if operation.kind == "function":
            return FUNCTIONS[operation.target](*args, **kwargs)
        if operation.kind == "method" and operation.target in METHODS:
            return getattr(args[0], operation.target)(*args[1:], **kwargs)
        if operation.kind == "attribute" and operation.target in ATTRIBUTES:
            return getattr(args[0], operation.target)
        if operation.kind == "tensor":
            prefix, _, name = operation.target.rpartition(".")
            return getattr(self.get_submodule(prefix), name)
        if operation.kind == "output":
            return args[0]
        raise ValueError(f"a static network does not have the {operation.kind} '{operation.target}'")


def static_networks(model: nn.Module) -> dict[str, StaticNetwork]:
    """Return the static networks that a model is, or contains, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, StaticNetwork)}


def input_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Return what rounds the inputs of each layer, by path, unless the layer is called with inputs of several kinds."""
    by_layer: dict[str, set[Quantizer | None]] = {}
    for path, network in static_networks(model).items():
        quantizers = network.quantizers
        rounding = {each.name: quantizers.get(each.target.rpartition(".")[2]) for each in network.program}
        for operation in network.program:
            if operation.kind == "layer" and operation.inputs:
                layer = f"{path}.{operation.target}".lstrip(".")
                by_layer.setdefault(layer, set()).add(rounding[operation.inputs[0]])
    only = {layer: each for layer, (each, *others) in by_layer.items() if not others}
    return {layer: each for layer, each in only.items() if each is not None}


def _parent(module: nn.Module, prefix: str) -> nn.Module:
    for name in prefix.split(".") if prefix else ():
        if name not in module._modules:
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    return module


def _drop(module: nn.Module, prefix: str, used: Collection[str]) -> None:
    for name, child in list(module.named_children()):
        path = f"{prefix}{name}"
        if path in used:
            continue
        if not any(target.startswith(f"{path}.") for target in used):
            del module._modules[name]
        elif type(child) in (nn.Module, nn.ModuleDict):
            _drop(child, f"{path}.", used)


def _arguments(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    inputs = [operation for operation in program if operation.kind == "input"]
    targets = [operation.target for operation in inputs]
    if len(args) > len(inputs) or not set(kwargs) <= set(targets[len(args) :]):
        raise TypeError(f"the network takes {', '.join(targets)}; found {len(args)} arguments and {', '.join(kwargs)}")
    passed = {**dict(zip(targets, args, strict=False)), **kwargs}
    defaults = {operation.target: operation.args[0] for operation in inputs if operation.args}
    missing = [target for target in targets if target not in passed and target not in defaults]
    if missing:
        raise TypeError(f"the network misses its argument {missing[0]}")
    return {operation.name: passed.get(operation.target, defaults.get(operation.target)) for operation in inputs}
