"""Chains of a network: a layer that gives channels, and all layers that take them, with nothing else in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from toolkit_quantization.equalized.operations import Layout, Lookup, behind
from toolkit_quantization.equalized.scales import Inputs
from toolkit_quantization.static.functions import NUMBERS
from toolkit_quantization.static.program import Operation, Program, Ref, users

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, *BATCH_NORMS)


@dataclass(frozen=True)
class Chain:
    """The layer that gives channels, and the weights of the layers that take them, by layer."""

    source: str
    takers: dict[str, Inputs]


class BrokenError(Exception):
    """No scale can be moved into a layer; the message says why."""


class Chains:
    """The chains of one program.

    Args:
        program: what the part of a network computes.
        lookup: finds a layer of it.
        prefix: the path of the part in the whole model, with a dot at its end.
    """

    def __init__(self, program: Program, lookup: Lookup, prefix: str) -> None:
        self._by_name = {operation.name: operation for operation in program}
        self._users, self._lookup, self._prefix = users(program), lookup, prefix
        self._calls = Counter(each.target for each in program if each.kind == "layer")
        self._read = {each.target.rpartition(".")[0] for each in program if each.kind == "tensor"}

    def layers(self) -> Iterator[str]:
        """Yield the paths, in the whole model, of the layers that are called."""
        yield from (f"{self._prefix}{target}" for target in self._calls)

    def into(self, layer: str) -> Chain:
        """Return the chain that ends at a layer, by its path in the whole model.

        Raises:
            BrokenError: there is none.
        """
        operations = [each for each in self._by_name.values() if each.kind == "layer" and self._path(each) == layer]
        self._require_alone(operations[0].target)
        source = self._source(operations[0])
        self._require_alone(source.target)
        module: Any = self._lookup(source.target)
        layout: Layout = "second" if isinstance(module, (*CONVOLUTIONS, nn.GroupNorm, *BATCH_NORMS)) else "last"
        channels = len(module.weight)
        takers = {
            self._path(end): self._inputs(end, name, place, channels) for end, name, place in self._ends(source, layout)
        }
        return Chain(self._path(source), takers)

    def _path(self, operation: Operation) -> str:
        return f"{self._prefix}{operation.target}"

    def _require_alone(self, target: str) -> None:
        if self._calls[target] > 1:
            raise BrokenError(f"'{self._prefix}{target}' is called more than once")
        if target in self._read:
            raise BrokenError(f"the module around '{self._prefix}{target}' reads its weight")

    def _source(self, operation: Operation) -> Operation:
        """Return what gives the channels that an operation takes."""
        before = self._before(operation)
        while not self._gives_channels(before):
            if before.kind == "input":
                whole = f"'{self._prefix.removesuffix('.')}'" if self._prefix else "the network"
                raise BrokenError(f"its inputs are those of {whole}")
            if not any(behind(before, layout, self._lookup) for layout in ("second", "last")):
                raise BrokenError(f"its inputs come from {self._name(before)}, which no scale passes")
            before = self._before(before)
        return before

    def _before(self, operation: Operation) -> Operation:
        first = operation.args[0] if operation.args else None
        if not isinstance(first, Ref):
            raise BrokenError(f"{self._name(operation)} is called in an unusual way")
        return self._by_name[first.name]

    def _gives_channels(self, operation: Operation) -> bool:
        if operation.kind != "layer":
            return False
        layer: Any = self._lookup(operation.target)
        if isinstance(layer, NORMS):
            if layer.weight is None or layer.weight.dim() != 1:
                raise BrokenError(f"{self._name(operation)} has no weight for each channel")
            return True
        return isinstance(layer, (*CONVOLUTIONS, nn.Linear))

    def _ends(self, operation: Operation, layout: Layout) -> Iterator[tuple[Operation, str, Layout]]:
        """Yield the operations that take the channels: each with the name of its input, and where the channels are."""
        for user in self._users[operation.name]:
            if user.kind == "attribute" or (user.kind == "method" and user.target in NUMBERS):
                continue
            after = behind(user, layout, self._lookup)
            if after is None:
                yield user, operation.name, layout
            else:
                yield from self._ends(user, after)

    def _inputs(self, operation: Operation, name: str, layout: Layout, channels: int) -> Inputs:
        """Return the weight of an operation that can be scaled along.

        Raises:
            BrokenError: the operation is none of a layer, or of one of another kind.
        """
        if operation.kind == "layer":
            self._require_alone(operation.target)
            layer = self._lookup(operation.target)
            if isinstance(layer, nn.MultiheadAttention):
                if layout == "last" and layer._qkv_same_embed_dim and operation.args[:3] == (Ref(name),) * 3:
                    return Inputs("in_proj_weight")
            elif operation.args == (Ref(name),) and takes(layer, layout, channels):
                return Inputs("weight", getattr(layer, "groups", 1))
        raise BrokenError(f"{self._name(operation)} takes the same channels, and cannot be scaled")

    def _name(self, operation: Operation) -> str:
        if operation.kind == "layer":
            kind = parametrize.type_before_parametrizations(self._lookup(operation.target))
            return f"'{self._path(operation)}' ({kind.__name__})"
        return operation.target.rpartition(".")[2] or f"the {operation.kind}"


def takes(layer: nn.Module, layout: Layout, channels: int) -> bool:
    """Return whether the inputs of a layer are channels that are where `layout` says."""
    if isinstance(layer, CONVOLUTIONS):
        return layout == "second" and layer.in_channels == channels
    if not isinstance(layer, nn.Linear):
        return False
    if layout == "flat":
        return layer.in_features % channels == 0
    return layer.in_features == channels  # behind a batch norm of (N, channels), the second dimension is the last one
