"""Slots: the dimensions of the network's tensors that have channels, and what is known of each layer's calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor, nn

from toolkit.structure.units import Numbers, Units

Role = Literal["output", "input", "norm"]
SAMPLES = 2  # that the network is traced and compared on


class Slot(NamedTuple):
    """One dimension of one tensor, and the unit of each index along it.

    `output` channels are made by the tensor, `input` channels are read by it, and `norm` channels pass through it: a
    batch norm scales them, for example. The gates of a recurrent layer have a row each for a channel: `rows` of them.
    """

    path: str
    dim: int
    role: Role
    units: Numbers
    rows: int = 1


@dataclass
class Slots:
    """All slots of a network by path and dimension, and how often each weight is multiplied.

    Attributes:
        model: the network, without masks.
        units: the units of all slots.
        places: number of positions per sample at which the weight of this path is multiplied, by path.
        tensors: all parameters and buffers by each of their paths.
        read_directly: paths of the tensors that `forward` reads itself, not through their layer.
        attentions: paths of the layers whose heads can go.
    """

    model: nn.Module
    units: Units
    places: dict[str, float] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    read_directly: set[str] = field(default_factory=set)
    attentions: list[str] = field(default_factory=list)
    _bound: set[str] = field(default_factory=set)
    _slots: dict[tuple[int, int], Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        ]
        self.tensors.update(named)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def has(self, path: str) -> bool:
        """Return whether the network has a tensor at this path."""
        return path in self.tensors

    def tensor(self, path: str) -> Tensor:
        """Return the tensor at a path."""
        return self.tensors[path]

    def paths_of(self, path: str) -> list[str]:
        """Return all paths of the tensor at a path."""
        return [other for other, tensor in self.tensors.items() if tensor is self.tensors[path]]

    def bind(self, path: str, dim: int, role: Role, units: Numbers, rows: int = 1) -> None:
        """Say which units a tensor has along a dimension; a tensor that is used twice ties them."""
        key = (id(self.tensors[path]), dim)
        self._bound.add(path)
        known = self._slots.get(key)
        if known is None:
            self._slots[key] = Slot(path, dim, role, units, rows)
            return
        self.units.tie(known.units, units)
        if role == "output" and known.role != "output":
            self._slots[key] = Slot(path, dim, role, known.units, rows)

    def made_by(self, path: str, dim: int) -> Numbers:
        """Return the units that a weight makes: new ones, or those of an earlier call."""
        key = (id(self.tensors[path]), dim)
        if key not in self._slots:
            self.bind(path, dim, "output", self.units.new(self.tensors[path].shape[dim]))
        self._bound.add(path)
        return self._slots[key].units

    def keep_shared(self) -> None:
        """Keep the channels of tensors that are also used where no rule says what happens to them."""
        sharing: dict[int, list[str]] = {}
        for path, tensor in self.tensors.items():
            sharing.setdefault(id(tensor), []).append(path)
        for (tensor_id, _), slot in self._slots.items():
            others = [path for path in sharing[tensor_id] if path not in self._bound]
            if others:
                self.units.keep(slot.units, f"'{others[0]}' is the same tensor as '{slot.path}'")
            elif slot.role != "norm" and self.read_directly & set(sharing[tensor_id]):
                self.units.keep(slot.units, f"forward reads '{slot.path}' itself")

    def fixed(self, count: int, reason: str) -> Numbers:
        """Return so many new units that stay."""
        units = self.units.new(count)
        self.units.keep(units, reason)
        return units

    def multiplied(self, path: str, places: float) -> None:
        """Count a call in which the weight is multiplied at so many positions per sample."""
        self.places[path] = self.places.get(path, 0.0) + places


def whole_groups(units: Units, channels: Numbers, groups: int) -> Numbers:
    """Tie the channels of each group to each other, and return one unit per group."""
    blocks = channels.reshape(groups, -1)
    for column in range(1, blocks.shape[1]):
        units.tie(blocks[:, 0], blocks[:, column])
    return np.ascontiguousarray(blocks[:, 0])
