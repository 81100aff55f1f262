"""Finds layers whose weight another module reads, as `F.linear(inputs, self.qkv.weight)` does."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

# What can be asked of an integer weight as of a float one.
HARMLESS = {"device", "dim", "dtype", "ndim", "numel", "shape", "size"}


def read_layers(model: nn.Module) -> set[nn.Module]:
    """Return the layers whose weight the forward pass of a module around them names, as far as it can be read."""
    layers = set()
    for module in model.modules():
        for path in _read_paths(type(module)):  # type: ignore[arg-type]  # classes can be hashed
            layer = _part(module, path)
            if layer is not None:
                layers.add(layer)
    return layers


def _part(module: nn.Module, path: tuple[str, ...]) -> nn.Module | None:
    for name in path:
        part = module._modules.get(name)
        if part is None:
            return None
        module = part
    return module


@cache
def _read_paths(kind: Any) -> frozenset[tuple[str, ...]]:
    """Return the paths in `self.path.weight`, in the forward pass of a class and in the methods that it uses."""
    pending, seen = ["forward"], set()
    paths: set[tuple[str, ...]] = set()
    while pending:
        name = pending.pop()
        code = _code(kind, name) if name not in seen else None
        seen.add(name)
        for chain in _chains(code) if code is not None else ():
            pending.append(chain[0])
            paths.update(_before_weight(chain))
    return frozenset(paths)


def _code(kind: type, name: str) -> CodeType | None:
    """Return the code of a method or a property; None for those of torch.nn, whose layers are known."""
    method = inspect.getattr_static(kind, name, None)
    method = method.fget if isinstance(method, property) else method
    if not isinstance(method, FunctionType) or method.__module__.startswith("torch.nn."):
        return None
    return method.__code__


def _chains(code: CodeType) -> Iterator[tuple[str, ...]]:
    """Yield the attributes that a method reads one from another, beginning at its first argument."""
    chain: list[str] | None = None
    for step in dis.get_instructions(code):
        if chain is not None and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(step.argval)
            continue
        if chain:
            yield tuple(chain)
        chain = [] if _is_self(step, code) else None


def _before_weight(chain: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield what comes before `weight`, unless only something harmless is asked of it."""
    place = chain.index("weight") if "weight" in chain else 0
    if place and not HARMLESS.intersection(chain[place + 1 : place + 2]):
        yield chain[:place]


def _is_self(step: dis.Instruction, code: CodeType) -> bool:
    names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
    return step.opname.startswith("LOAD_FAST") and code.co_argcount > 0 and names[-1] == code.co_varnames[0]
