"""Parts of networks that no file can refer to by name, and the source that builds them again.

Lambdas, functions inside functions and classes inside functions have no name by which a file could refer to them. If a
source builds them, a file can say: call this source with these arguments, and take the part from this place.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
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
    """A part of a network: the attribute of the module at a path, or the class of that module if it is empty.

    `is_whole` is False if the part is one of several values in that attribute.
    """

    path: str
    attribute: str = ""
    is_whole: bool = True

    def __str__(self) -> str:
        return f"{self.path}:{self.attribute}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place that was written as text."""
        path, _, attribute = text.partition(":")
        return cls(path, attribute)


# By the part. Functions and classes are the same objects in every copy of a network.
_origins: WeakKeyDictionary[Any, dict[Build, list[Place]]] = WeakKeyDictionary()


def remember(model: nn.Module, source: str, args: Mapping[str, Any]) -> None:
    """Note which call built the parts of a model that no file can name."""
    try:
        build = Build(source, json.dumps(args, sort_keys=True))
    except TypeError:  # a date, for example
        return
    for place, part in unnamed_parts(model):
        if not _holds_state(part):
            places = _origins.setdefault(part, {}).setdefault(build, [])
            places += [place] if place not in places else []


def has_origin(part: Any) -> bool:
    """Return whether a known call builds a function or class that no file can name."""
    return part in _origins


def origin_of(model: nn.Module) -> tuple[Build, dict[Place, Place]] | None:
    """Return the call that builds all unnamed parts of a model, and the place of each in what it builds.

    None if there are no such parts, or no single call builds all of them.
    """
    parts = list(unnamed_parts(model))
    calls = [_origins.get(part, {}) for _, part in parts]
    for build in calls[0] if calls else ():
        originals = [_original(place, call.get(build, [])) for (place, _), call in zip(parts, calls, strict=True)]
        if None not in originals:
            pairs = zip(parts, originals, strict=True)
            return build, {place: original for (place, _), original in pairs if original is not None}
    return None


def _original(place: Place, originals: Sequence[Place]) -> Place | None:
    """Return the place that a part is taken from: the same one, or at least an attribute of the same name and form."""
    alike = (each for each in originals if (each.attribute, each.is_whole) == (place.attribute, place.is_whole))
    others = (each for each in originals if each.is_whole and place.is_whole)
    return place if place in originals else next(alike, next(others, None))


def unnamed_parts(model: nn.Module) -> Iterator[tuple[Place, Any]]:
    """Yield the functions and classes in a model that no file can name, with their places."""
    for path, module in model.named_modules():
        kind = parametrize.type_before_parametrizations(module)
        if is_unnamed(kind):
            yield Place(path), kind
        for name, value in vars(module).items():
            if name not in MODULE_ATTRIBUTES:
                yield from ((Place(path, name, leaf is value), leaf) for leaf in tree_leaves(value) if is_unnamed(leaf))


def is_unnamed(value: Any) -> bool:
    """Return whether a value is a function or a class that was defined inside a function, or a class inside a class."""
    if isinstance(value, type):
        return "." in value.__qualname__
    return inspect.isfunction(value) and "<" in value.__qualname__


def _holds_state(part: Any, depth: int = 0) -> bool:
    """Return whether a function refers to layers or tensors, which would be those of the first network."""
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
