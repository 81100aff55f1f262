"""What no module that the toolkit wrote looks like, however valid its parts are one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from torch import nn

from toolkit.errors import ArtifactError

MAX_PATHS = 100_000  # a module in two places, which holds another in two places, and so on
MAX_PATH_LENGTH = 1000
MAX_PARTS = 1_000_000  # of all attributes together, each as often as it is found
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
_METHODS = {name for name in dir(nn.Module) if callable(getattr(nn.Module, name))} - {"forward"}


def refuse_dishonest(model: nn.Module) -> None:
    """Raise an `ArtifactError` for an opened module of which reading, copying or moving it would not end, or call
    something else than its class's methods."""
    found: dict[nn.Module, tuple[int, int]] = {}
    _measure(model, found)
    for module in found:
        kind = type(module).__name__
        replaced = min(vars(module).keys() & _METHODS, default=None)
        if replaced is not None:
            raise ArtifactError(f"a {kind} in it has something else in place of its method '{replaced}'")
        if any(vars(module).get(hooks) for hooks in HOOKS):
            raise ArtifactError(f"a {kind} in it has hooks, which the toolkit does not write")
    _count(found)


def _measure(module: nn.Module, found: dict[nn.Module, tuple[int, int]]) -> tuple[int, int]:
    """The number of paths below a module and the length of the longest; recursion stops at one that holds itself."""
    if module not in found:
        if not isinstance(module, nn.Module):
            raise ArtifactError(f"it has a {type(module).__name__} in place of a module")
        children = vars(module)["_modules"].items()
        below = [(name, *_measure(child, found)) for name, child in children if child is not None]
        paths = 1 + sum(count for _, count, _ in below)
        length = max((len(name) + 1 + longest for name, _, longest in below), default=0)
        if paths > MAX_PATHS or length > MAX_PATH_LENGTH:
            raise ArtifactError("its modules are nested without an end, or have names as long as a page")
        found[module] = paths, length
    return found[module]


def _count(modules: Iterable[nn.Module]) -> None:
    """Count as one that does not remember would count: lists in lists can double at every level."""
    stack: list[Any] = [vars(module) for module in modules]
    count = 0
    while stack:
        parts = _parts(stack.pop())
        count += len(parts)
        if count > MAX_PARTS:
            raise ArtifactError(f"its attributes have more than {MAX_PARTS} parts, or hold themselves")
        stack.extend(parts)


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    return value if isinstance(value, list | tuple | set | frozenset) else ()
