"""The structure of a network: groups of units that can be cut, what a unit consists of, and what is left after a cut.

Indices, not layers, are what depends on each other: a unit is everything that one removed channel takes with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import masks, patterns
from toolkit.data.splits import Data
from toolkit.replacements import replaced_layers
from toolkit.structure.graph import with_parents
from toolkit.structure.slots import Slot, Slots
from toolkit.structure.units import Numbers
from toolkit.structure.walk import walk

REPLACED = "replaced by an earlier stage, as quantized layers are; remove channels before that stage"


class Group(NamedTuple):
    """Units that layers make together, such as the channels of a residual stream.

    Attributes:
        layers: paths of the layers that make them.
        units: numbers of those that may go.
        staying: how many channels of the first layer have to stay.
        width: number of channels of the first layer that a unit consists of.
    """

    layers: tuple[str, ...]
    units: tuple[int, ...]
    staying: int
    width: int

    @property
    def name(self) -> str:
        """The first layer."""
        return self.layers[0]


class Structure:
    """A network's slots by unit, and its groups in the order of the network.

    Attributes:
        slots: the slots, with a unit's root for every index.
        attentions: paths of attentions whose heads can be cut.
        groups: what can be cut.
        kept: for each layer whose channels stay, the reason.
    """

    def __init__(self, slots: Slots, layers: Collection[str], exclude: Collection[str]) -> None:
        self._source = slots
        roots, reasons = slots.units.roots(), slots.units.reasons()
        self.slots = [slot._replace(units=roots[slot.units]) for slot in slots]
        self.attentions = slots.attentions
        self.groups: list[Group] = []
        self.kept: dict[str, str] = {}
        for made in _made_together(self.slots):
            self._add(made, reasons, layers, exclude)
        replaced = [layer.path for layer in replaced_layers(slots.model)]
        self.kept.update(dict.fromkeys(replaced, REPLACED))

    def _add(self, made: list[Slot], reasons: Mapping[int, str], layers: Any, exclude: Any) -> None:
        weights = [path for slot in made if self.is_weight(slot.path) for path in self._source.paths_of(slot.path)]
        paths = tuple(dict.fromkeys(path.rpartition(".")[0] for path in weights))
        if not paths:
            return
        _, _, _, first, rows = next(slot for slot in made if self.is_weight(slot.path))
        free = [unit for unit in dict.fromkeys(first.tolist()) if unit not in reasons]
        reason = _reason_against(paths, layers, exclude)
        if not reason and not free:
            reason = reasons[int(first[0])]
        if reason:
            self.kept.update(dict.fromkeys(paths, reason))
            return
        width = int((first == free[0]).sum()) // rows
        self.groups.append(Group(paths, tuple(free), len(first) // rows - width * len(free), width))

    def is_weight(self, path: str) -> bool:
        """Return whether a tensor multiplies its inputs, rather than being added or scaling them."""
        return self._source.tensor(path).dim() > 1

    def is_parameter(self, path: str) -> bool:
        """Return whether a tensor can be masked."""
        return isinstance(self._source.tensor(path), nn.Parameter)

    def width(self, layer: str) -> int:
        """Return the number of channels that a layer of one of the groups makes."""
        weights = {id(self._source.tensor(slot.path)): slot for slot in self.slots if slot.role == "output"}
        tensors = self._source.model.get_submodule(layer).parameters()
        return next(len(slot.units) // slot.rows for tensor in tensors if (slot := weights.get(id(tensor))))

    @cached_property
    def _along(self) -> dict[str, dict[int, Numbers]]:
        """By path of a tensor and dimension, the units."""
        along: dict[str, dict[int, Numbers]] = {}
        for slot in self.slots:
            along.setdefault(slot.path, {})[slot.dim] = slot.units
        return along

    def indices(self, removed: Collection[int]) -> dict[str, dict[int, Tensor]]:
        """Return what is left of every tensor that loses something: by path and dimension, ascending indices."""
        gone = np.array(sorted(removed), dtype=np.int64)
        left: dict[str, dict[int, Tensor]] = {}
        for path, dims in self._along.items():
            for dim, units in dims.items():
                stays = ~np.isin(units, gone)
                if not stays.all():
                    left.setdefault(path, {})[dim] = torch.from_numpy(np.flatnonzero(stays))
        return left

    def makers(self) -> Iterator[Slot]:
        """Yield the slots of parameters that make units: zeros in all of them make a unit zero."""
        return (slot for slot in self.slots if slot.role != "input" and self.is_parameter(slot.path))

    def masks(self, removed: Collection[int]) -> dict[str, Tensor]:
        """Return the masks under which the units are zero: of weights, biases and scales that make them."""
        gone = np.array(sorted(removed), dtype=np.int64)
        chosen: dict[str, Tensor] = {}
        for slot in self.makers():
            tensor = self._source.tensor(slot.path)
            stays = torch.from_numpy(~np.isin(slot.units, gone))
            shape = [1] * tensor.dim()
            shape[slot.dim] = -1
            mask = stays.view(shape).expand(tensor.shape)
            chosen[slot.path] = mask if slot.path not in chosen else chosen[slot.path] & mask
        return chosen

    def cost(self, of: str, removed: Collection[int] = ()) -> float:
        """Return the parameters, the MACs per sample of convolutions and linear layers, or the bytes that are left."""
        left = {id(self._source.tensor(path)): dims for path, dims in self.indices(removed).items()}

        def size(path: str) -> int:
            tensor = self._source.tensor(path)
            return _left(tensor, left.get(id(tensor), {}))

        if of == "macs":
            return sum(size(path) * places for path, places in self._source.places.items())
        paths = list({id(tensor): path for path, tensor in reversed(self._source.tensors.items())}.values())
        if of == "size_bytes":
            return float(sum(size(path) * self._source.tensor(path).element_size() for path in paths))
        return float(sum(size(path) for path in paths if self.is_parameter(path)))


def analyze(model: nn.Module, data: Data, layers: list[str], exclude: list[str]) -> Structure:
    """Return the structure of a network, masked or not; it is left as it was.

    Raises:
        TechniqueError: the network cannot be traced, or a pattern matches nothing.
    """
    names = [path for path, _ in model.named_modules() if path and ".parametrizations" not in path]
    patterns.require_match(names or [""], [*layers, *exclude])
    slots = walk(masks.folded(model).eval(), data, exclude)
    for path, kind in _kept_in_shape(model):
        for slot in slots:
            if slots.tensor(slot.path) is slots.tensor(path):
                slots.units.keep(slot.units, f"{kind} keeps '{path}' in shape")
    return Structure(slots, layers, exclude)


def _kept_in_shape(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the path of every weight that something other than a mask keeps in shape, and what that is."""
    for weight in masks.named_weights(model):
        if parametrize.is_parametrized(weight.module, weight.attribute):
            lists: Any = weight.module.parametrizations
            for part in lists[weight.attribute]:
                if not isinstance(part, masks.Mask):
                    yield weight.path, type(part).__name__


def _left(tensor: Tensor, dims: Mapping[int, Tensor]) -> int:
    shape = [len(dims[dim]) if dim in dims else size for dim, size in enumerate(tensor.shape)]
    return int(np.prod(shape, dtype=np.int64))


def _made_together(slots: list[Slot]) -> list[list[Slot]]:
    """Return the slots of outputs, joined where they have a unit in common."""
    joined: list[tuple[set[int], list[Slot]]] = []
    for slot in slots:
        if slot.role != "output":
            continue
        units, members = set(slot.units.tolist()), [slot]
        others = []
        for known, found in joined:
            if known & units:
                units, members = units | known, [*found, *members]
            else:
                others.append((known, found))
        joined = [*others, (units, members)]
    return [members for _, members in joined]


def _reason_against(paths: Collection[str], layers: Collection[str], exclude: Collection[str]) -> str:
    named = [name for path in paths for name in with_parents(path)]
    if patterns.match(named, exclude):
        return "excluded"
    return "" if patterns.match(named, layers) else "not among the layers"
