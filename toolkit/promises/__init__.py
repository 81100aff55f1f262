"""What stages achieved and later ones must keep: zeros, and layers in another representation.

Promises add up along the stages that a row came from, and do not depend on what keeps them: zeros that a mask made
are still promised after a later stage has folded the mask into integers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit.replacements import replaced_layers


@dataclass(frozen=True)
class Kind:
    """How a layer stores its weight: `replaces` is empty where it is no other layer's representation."""

    name: str
    replaces: str
    dtypes: frozenset[torch.dtype]
    size_bytes: int
    maker: str = ""

    def __str__(self) -> str:
        dtypes = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in self.dtypes))
        return f"{self.name} of {dtypes}" if dtypes else self.name

    def is_kept_by(self, other: Kind) -> bool:
        """Whether the `other` one stands for the same layer, in the same dtypes or in no more bytes."""
        return other.replaces == self.replaces and (other.dtypes == self.dtypes or other.size_bytes <= self.size_bytes)


@dataclass(frozen=True)
class Promises:
    """What the stages so far achieved: by weight the zeros that each of them made (True for a zero), and by layer
    its representation."""

    zeros: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.zeros or self.kinds)

    def and_of(self, model: nn.Module, maker: str) -> Promises:
        """These, and whatever more the model shows, which `maker` achieved."""
        zeros = dict(self.zeros)
        for path, mask in masks.current(model).items():
            new = ~mask
            for known in zeros.get(path, {}).values():
                new &= ~known.to(new.device)
            if new.any():
                zeros[path] = {**zeros.get(path, {}), maker: new}
        shown = {path: replace(kind, maker=maker) for path, kind in kinds_of(model).items() if kind.replaces}
        return Promises(zeros, {**shown, **self.kinds})

    def before(self, maker: str, places: Collection[str] | None = None) -> Promises:
        """These without what `maker` achieved; of the weights and layers at `places` only, if they are given."""

        def is_own(path: str, who: str) -> bool:
            return who == maker and (places is None or path in places)

        zeros = {
            path: {who: made for who, made in makers.items() if not is_own(path, who)}
            for path, makers in self.zeros.items()
        }
        kinds = {path: kind for path, kind in self.kinds.items() if not is_own(path, kind.maker)}
        return Promises({path: makers for path, makers in zeros.items() if makers}, kinds)

    def under(self, prefix: str) -> Promises:
        """The same of a model that was put inside another one, whose paths begin with `prefix`."""
        if not prefix:
            return self
        kinds = {f"{prefix}{path}".rstrip("."): kind for path, kind in self.kinds.items()}
        return Promises({f"{prefix}{path}": makers for path, makers in self.zeros.items()}, kinds)

    def prefix_in(self, model: nn.Module) -> str:
        """What the paths of all that is promised begin with, now that the model may be inside another one."""
        modules = {path for path, _ in model.named_modules(remove_duplicate=False)}
        layers = [*self.kinds, *(path.rpartition(".")[0] for path in self.zeros)]
        candidates = ["", *(f"{path}." for path in modules if path)]
        fitting = (start for start in candidates if all(f"{start}{layer}".rstrip(".") in modules for layer in layers))
        return next(fitting, "")


def kinds_of(model: nn.Module) -> dict[str, Kind]:
    """How every module of a model stores what it holds, by each of its paths."""
    replacing: dict[nn.Module, str] = {layer.module: layer.replaces for layer in replaced_layers(model)}
    return {
        path: _kind(module, replacing.get(module, "")) for path, module in model.named_modules(remove_duplicate=False)
    }


def _kind(module: nn.Module, replaces: str) -> Kind:
    tensors = [*module.parameters(), *module.buffers()]
    name = parametrize.type_before_parametrizations(module).__name__
    size = sum(tensor.nbytes for tensor in tensors)
    return Kind(name, replaces, frozenset(tensor.dtype for tensor in tensors), size)
