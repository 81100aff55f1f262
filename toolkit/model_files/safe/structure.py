"""Checks of an opened module as a whole: every part may be valid, and the whole still an attack."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from torch import nn

from toolkit.errors import ArtifactError

MAX_PATHS = 100_000  # a module in two places that contains another in two places doubles them at each level
MAX_PATH_LENGTH = 1000
MAX_PARTS = 1_000_000  # of all attributes together, each counted as often as it is reached
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
)
METHODS = {name for name in dir(nn.Module) if callable(getattr(nn.Module, name))} - {"forward"}


def check_structure(model: nn.Module) -> None:
    """Raise an `ArtifactError` for a module that the toolkit did not write.

    Reading, copying or moving such a module might never end, or might call something other than its class's methods.
    """
    measured: dict[nn.Module, tuple[int, int]] = {}
    _measure(model, measured)
    for module in measured:
        kind = type(module).__name__
        replaced = min(vars(module).keys() & METHODS, default=None)
        if replaced is not None:
            raise ArtifactError(f"a {kind} in it has something else in place of its method '{replaced}'")
        if any(vars(module).get(hooks) for hooks in HOOKS):
            raise ArtifactError(f"a {kind} in it has hooks, which the toolkit does not write")
    _count_parts(measured)


def _measure(module: nn.Module, measured: dict[nn.Module, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of paths below a module and the longest depth; a module inside itself raises RecursionError."""
    if module not in measured:
        if not isinstance(module, nn.Module):
            raise ArtifactError(f"it has a value of type {type(module).__name__} in place of a module")
        children = vars(module)["_modules"].items()
        below = [(name, *_measure(child, measured)) for name, child in children if child is not None]
        paths = 1 + sum(count for _, count, _ in below)
        length = max((len(name) + 1 + longest for name, _, longest in below), default=0)
        if paths > MAX_PATHS or length > MAX_PATH_LENGTH:
            raise ArtifactError("its modules are nested without end, or their names are too long")
        measured[module] = paths, length
    return measured[module]


def _count_parts(modules: Iterable[nn.Module]) -> None:
    """Count shared parts each time they are reached: lists in lists can double at every level."""
    stack: list[Any] = [vars(module) for module in modules]
    count = 0
    while stack:
        parts = _parts(stack.pop())
        count += len(parts)
        if count > MAX_PARTS:
            raise ArtifactError(f"its attributes have more than {MAX_PARTS} parts, or contain themselves")
        stack.extend(parts)


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    return value if isinstance(value, list | tuple | set | frozenset) else ()
