"""Parts of networks that no file can name, and the source that builds them again.

Lambdas, functions inside functions and classes inside functions have no name by which a file could refer to them. If a
source builds them, a file can say: call this source with these arguments, and take the part from this place.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))


class Build(NamedTuple):
    """A call that builds a network: a source of a recipe, and its keyword arguments in JSON."""

    source: str
    args: str


class Place(NamedTuple):
    """A part of a network: the attribute of the module at a path, or the class of that module if it is empty."""

    path: str
    attribute: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.attribute}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place that was written as text."""
        path, _, attribute = text.partition(":")
        return cls(path, attribute)


# By the part. Functions and classes are the same objects in every copy of a network.
_origins: WeakKeyDictionary[Any, dict[Build, Place]] = WeakKeyDictionary()


def remember(model: nn.Module, source: str, args: Mapping[str, Any]) -> None:
    """Note which call built the parts of a model that no file can name."""
    try:
        build = Build(source, json.dumps(args, sort_keys=True))
    except TypeError:  # a date, for example
        return
    for place, part in unnamed_parts(model):
        if not _holds_state(part):
            _origins.setdefault(part, {})[build] = place


def origin_of(model: nn.Module) -> tuple[Build, dict[Place, Place]] | None:
    """The call that builds all unnamed parts of a model, and the place of each in what it builds.

    None if there are no such parts, or no single call builds all of them.
    """
    parts = list(unnamed_parts(model))
    calls = [_origins.get(part, {}) for _, part in parts]
    build = next((build for build in (calls[0] if calls else {}) if all(build in call for call in calls)), None)
    if build is None:
        return None
    return build, {place: call[build] for (place, _), call in zip(parts, calls, strict=True)}


def unnamed_parts(model: nn.Module) -> Iterator[tuple[Place, Any]]:
    """Yield the functions and classes in a model that no file can name, with their places."""
    for path, module in model.named_modules():
        kind = parametrize.type_before_parametrizations(module)
        if is_unnamed(kind):
            yield Place(path), kind
        for name, value in vars(module).items():
            if name not in MODULE_ATTRIBUTES:
                yield from ((Place(path, name), leaf) for leaf in tree_leaves(value) if is_unnamed(leaf))


def is_unnamed(value: Any) -> bool:
    """Whether a value is a function or a class that was defined inside a function, or a class inside a class."""
    if isinstance(value, type):
        return "." in value.__qualname__
    return inspect.isfunction(value) and "<" in value.__qualname__


def _holds_state(part: Any, depth: int = 0) -> bool:
    """Whether a function refers to layers or tensors, which would be those of the network that was built first."""
    if not inspect.isfunction(part) or depth > 10:
        return False
    cells = [cell.cell_contents for cell in part.__closure__ or () if _is_filled(cell)]
    leaves = tree_leaves([cells, part.__defaults__, part.__kwdefaults__])
    return any(isinstance(leaf, nn.Module | Tensor) or _holds_state(leaf, depth + 1) for leaf in leaves)


def _is_filled(cell: Any) -> bool:
    try:
        return bool([cell.cell_contents])
    except ValueError:
        return False
