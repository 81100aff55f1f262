"""Where a network rounds its activations, so that integers stay integers from one layer to the next."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from toolkit_quantization.static.functions import (
    ACTIVATION_LAYERS,
    ACTIVATIONS,
    JOINS,
    NUMBERS,
    SELECTION_LAYERS,
    SELECTIONS,
)
from toolkit_quantization.static.network import QUANTIZERS
from toolkit_quantization.static.program import Operation, Program, Ref, users, without

Lookup = Callable[[str], nn.Module]  # from the path of a layer to the layer


def placed(program: Program, layers: Collection[str], lookup: Lookup) -> Program:
    """Return the program with a quantizer after every result that has to be rounded.

    Rounded are the inputs and the results of the quantized layers, and of the additions, products and concatenations
    between them; a ReLU counts as part of the layer before it. What a linear layer gives is rounded only if integers
    are computed from it. What only selects values, as a max pooling does, rounds with the grid of its input, which
    changes nothing.

    Args:
        program: has no quantizers.
        layers: the paths of the quantized layers.
        lookup: finds a layer.
    """
    grids = _Placement(program, layers, lookup).grids()
    rounded = {name: f"{name}_rounded" for name in grids}
    operations: list[Operation] = []
    for operation in program:
        operations.append(operation.with_inputs(lambda name: rounded.get(name, name)))
        if operation.name in grids:
            root, result = grids[operation.name], Ref(operation.name)
            args = (result,) if root == operation.name else (result, True)
            operations.append(Operation(rounded[operation.name], "layer", f"{QUANTIZERS}.{root}", args))
    return tuple(operations)


def unplaced(program: Program) -> Program:
    """Return a program without its quantizers."""
    dropped = [operation.name for operation in program if operation.target.startswith(f"{QUANTIZERS}.")]
    return without(program, dropped)


class _Placement:
    def __init__(self, program: Program, layers: Collection[str], lookup: Lookup) -> None:
        self.by_name = {operation.name: operation for operation in program}
        self.layers, self.lookup, self.users = layers, lookup, users(program)
        self.joins: set[str] = set()
        for operation in program:  # in the order of computation: a join may follow another one
            if self._is_join(operation):
                self.joins.add(operation.name)

    def grids(self) -> dict[str, str]:
        """Return the name of the result whose quantizer rounds it, for each result that is rounded."""
        names: dict[str, None] = {}
        for operation in self.by_name.values():
            if self._is_integer(operation):
                names.update(dict.fromkeys(self._tensors(operation)))
                if not self._is_exact(operation):
                    names[self._end(operation).name] = None
        for name in list(names):
            while self._selects(self.by_name[name]):
                name = self.by_name[name].inputs[0]
                names[name] = None
        return {name: self._root(name) for name in self.by_name if name in names}

    def _tensors(self, operation: Operation) -> list[str]:
        """Return the inputs of an operation that hold activations: neither constant tensors nor numbers of samples."""
        inputs = (self.by_name[name] for name in operation.inputs)
        return [each.name for each in inputs if each.kind != "tensor" and not self._is_number(each)]

    def _is_number(self, operation: Operation) -> bool:
        if operation.kind == "input":
            return bool(operation.args) and isinstance(operation.args[0], (int, float))
        if operation.kind == "attribute" or operation.target in NUMBERS:
            return True
        inputs = operation.inputs
        is_function = operation.kind == "function" and bool(inputs)
        return is_function and all(self._is_number(self.by_name[name]) for name in inputs)

    def _is_integer(self, operation: Operation) -> bool:
        return self._is_quantized(operation) or operation.name in self.joins

    def _is_quantized(self, operation: Operation) -> bool:
        return operation.kind == "layer" and operation.target in self.layers

    def _is_join(self, operation: Operation) -> bool:
        if operation.kind not in ("function", "method") or operation.target not in JOINS:
            return False
        inputs = self._tensors(operation)
        return len(inputs) > 1 and any(self._comes_from_integers(name) for name in inputs)

    def _comes_from_integers(self, name: str) -> bool:
        operation = self.by_name[name]
        while self._selects(operation) or self._activates(operation):
            operation = self.by_name[operation.inputs[0]]
        return self._is_integer(operation)

    def _root(self, name: str) -> str:
        while self._selects(self.by_name[name]):
            name = self.by_name[name].inputs[0]
        return name

    def _end(self, operation: Operation) -> Operation:
        using = self.users[operation.name]
        return using[0] if len(using) == 1 and self._activates(using[0]) else operation

    def _is_exact(self, operation: Operation) -> bool:
        """Return whether only integer operations need a result rounded: a linear layer can give floats."""
        return self._is_quantized(operation) and isinstance(self.lookup(operation.target), nn.Linear)

    def _selects(self, operation: Operation) -> bool:
        return self._is_one_of(operation, SELECTION_LAYERS, SELECTIONS)

    def _activates(self, operation: Operation) -> bool:
        return self._is_one_of(operation, ACTIVATION_LAYERS, ACTIVATIONS)

    def _is_one_of(self, operation: Operation, layers: tuple[type, ...], names: Collection[str]) -> bool:
        if operation.kind == "layer":
            return isinstance(self.lookup(operation.target), layers)
        return operation.kind in ("function", "method") and operation.target in names
