"""Promises: what stages achieved and later ones must preserve. These are zeros, and layers in another representation.

Promises add up along the stages that a row descends from. They do not depend on the mechanism that preserves them: the
zeros of a mask are still promised after a later stage has folded the mask into integers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit.cutting import Indices, cut_tensor
from toolkit.replacements import replaced_layers


@dataclass(frozen=True)
class Kind:
    """How a layer stores its weight.

    Attributes:
        name: name of the layer's class.
        replaces: name of the class that the layer stands for, empty if it is a layer of its own.
        dtypes: dtypes of its parameters and buffers.
        size_bytes: size of its parameters and buffers.
        maker: label of the stage that made it.
    """

    name: str
    replaces: str
    dtypes: frozenset[torch.dtype]
    size_bytes: int
    maker: str = ""

    def __str__(self) -> str:
        dtypes = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in self.dtypes))
        return f"{self.name} of {dtypes}" if dtypes else self.name

    def is_preserved_by(self, other: Kind) -> bool:
        """Return whether `other` stands for the same layer, in the same dtypes or in no more bytes."""
        return other.replaces == self.replaces and (other.dtypes == self.dtypes or other.size_bytes <= self.size_bytes)


@dataclass(frozen=True)
class Promises:
    """What the stages so far achieved.

    Attributes:
        zeros: by path of the weight and by stage, bool tensors of the weight's shape, True for a zero.
        kinds: by path of the layer, its representation.
    """

    zeros: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.zeros or self.kinds)

    def extended_by(self, model: nn.Module, maker: str) -> Promises:
        """Return these promises and those that the model shows in addition, which `maker` achieved."""
        zeros = dict(self.zeros)
        for path, mask in masks.current(model).items():
            new = ~mask
            for known in zeros.get(path, {}).values():
                new &= ~known.to(new.device)
            if new.any():
                zeros[path] = {**zeros.get(path, {}), maker: new}
        shown = {path: replace(kind, maker=maker) for path, kind in kinds_of(model).items() if kind.replaces}
        return Promises(zeros, {**shown, **self.kinds})

    def without(self, maker: str, places: Collection[str] | None = None) -> Promises:
        """Return these promises without those of `maker`, or without those of `maker` at the paths in `places`."""

        def is_own(path: str, owner: str) -> bool:
            return owner == maker and (places is None or path in places)

        zeros = {
            path: {owner: mask for owner, mask in makers.items() if not is_own(path, owner)}
            for path, makers in self.zeros.items()
        }
        kinds = {path: kind for path, kind in self.kinds.items() if not is_own(path, kind.maker)}
        return Promises({path: makers for path, makers in zeros.items() if makers}, kinds)

    def along(self, cuts: Mapping[str, Sequence[Indices]]) -> Promises:
        """Return these promises about what is left of each tensor after cuts, which are by path of the tensor."""
        zeros = {
            path: {owner: cut_tensor(mask, cuts.get(path, ())) for owner, mask in makers.items()}
            for path, makers in self.zeros.items()
        }
        left = {path: {owner: mask for owner, mask in makers.items() if mask.any()} for path, makers in zeros.items()}
        return Promises({path: makers for path, makers in left.items() if makers}, self.kinds)

    def under(self, prefix: str) -> Promises:
        """Return the same promises for a model inside another one, whose paths begin with `prefix`."""
        if not prefix:
            return self
        kinds = {f"{prefix}{path}".rstrip("."): kind for path, kind in self.kinds.items()}
        return Promises({f"{prefix}{path}": makers for path, makers in self.zeros.items()}, kinds)

    def prefix_in(self, model: nn.Module) -> str:
        """Return the prefix of all promised paths in `model`, which may contain the promised model as a part."""
        modules = {path for path, _ in model.named_modules(remove_duplicate=False)}
        layers = [*self.kinds, *(path.rpartition(".")[0] for path in self.zeros)]
        candidates = ["", *(f"{path}." for path in modules if path)]
        fitting = (start for start in candidates if all(f"{start}{layer}".rstrip(".") in modules for layer in layers))
        return next(fitting, "")


def kinds_of(model: nn.Module) -> dict[str, Kind]:
    """Return how every module of a model stores its tensors, by each of its paths."""
    replacing: dict[nn.Module, str] = {layer.module: layer.replaces for layer in replaced_layers(model)}
    return {
        path: _kind(module, replacing.get(module, "")) for path, module in model.named_modules(remove_duplicate=False)
    }


def _kind(module: nn.Module, replaces: str) -> Kind:
    tensors = [*module.parameters(), *module.buffers()]
    name = parametrize.type_before_parametrizations(module).__name__
    size = sum(tensor.nbytes for tensor in tensors)
    return Kind(name, replaces, frozenset(tensor.dtype for tensor in tensors), size)
