"""Finds layers whose weight another module reads, as `F.linear(inputs, self.qkv.weight)` does."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

# What can be asked of an integer weight as of a float one.
HARMLESS = {"device", "dim", "dtype", "ndim", "numel", "shape", "size"}


def read_layers(model: nn.Module) -> set[nn.Module]:
    """Return the layers whose weight a method of a module around them names, as far as its class can be read."""
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
    """Return the paths in `self.path.weight`, in the methods of a class and its bases, but not in those of torch."""
    bases = [base for base in kind.__mro__ if not base.__module__.startswith("torch.nn.") and base is not object]
    methods = [method for base in bases for method in vars(base).values() if isinstance(method, FunctionType)]
    return frozenset(path for method in methods for path in _paths(method.__code__))


def _paths(code: CodeType) -> Iterator[tuple[str, ...]]:
    """Yield the names between the first argument of a function and each `weight` that it reads."""
    chain: list[str] | None = None
    for step in dis.get_instructions(code):
        is_attribute = step.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if chain and len(chain) > 1 and chain[-1] == "weight" and not (is_attribute and step.argval in HARMLESS):
            yield tuple(chain[:-1])
        if is_attribute and chain is not None:
            chain.append(step.argval)
        else:
            chain = [] if _is_self(step, code) else None


def _is_self(step: dis.Instruction, code: CodeType) -> bool:
    names = step.argval if isinstance(step.argval, tuple) else (step.argval,)
    return step.opname.startswith("LOAD_FAST") and code.co_argcount > 0 and names[-1] == code.co_varnames[0]
