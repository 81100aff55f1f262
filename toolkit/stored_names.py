"""Names under which files keep the classes of layers, so that a class may move to another module.

Without such a name a file names a class by its module path, and opens only as long as the class stays there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from toolkit.errors import ToolkitError

CORE = "toolkit"  # owns the names of the toolkit's own classes
CORE_HOMES = ("toolkit.attention", "toolkit.masks", "toolkit.testing.toys", "toolkit.window_attention")
MARK = "@"  # precedes a stored name in a file: no module path contains it, so neither can pass for the other
_FORM = re.compile(r"[\w-]+\.\w+")

Layer = TypeVar("Layer", bound=type[nn.Module])

_classes: dict[str, type[nn.Module]] = {}
_names: dict[str, str] = {}  # by module path


def stored_as(name: str) -> Callable[[Layer], Layer]:
    """Decorate a layer's class with the name that model files use for it.

    Args:
        name: `"<technique>.<class>"`, with the technique's name in recipes: opening a file imports that technique if it
            is installed, and nothing else. The name must never change; the class may be renamed and may move.

    Raises:
        ToolkitError: the name has another form, the class is not an `nn.Module`, or another class has the name.
    """
    if not _FORM.fullmatch(name):
        raise ToolkitError(f"the stored name '{name}' must have the form '<technique>.<class>'")

    def register(layer: Layer) -> Layer:
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            raise ToolkitError(f"stored_as('{name}') decorates {layer!r}, which is not a subclass of nn.Module")
        known = _classes.get(name)
        if known is not None and not _is_imported_again(known, layer):
            both = f"{path_of(known)} and {path_of(layer)}"
            raise ToolkitError(f"the stored name '{name}' is taken by both {both}; choose another name for one")
        _classes[name], _names[path_of(layer)] = layer, name
        return layer

    return register


def path_of(layer: type) -> str:
    """Return the module path of a class, which is its name in a pickle."""
    return f"{layer.__module__}.{layer.__qualname__}"


def _is_imported_again(known: type, layer: type) -> bool:
    """Return whether two classes are one piece of source: a module was reloaded, or imported under a second name."""
    files = [getattr(sys.modules.get(each.__module__), "__file__", None) for each in (known, layer)]
    is_same_module = known.__module__ == layer.__module__ or (files[0] is not None and files[0] == files[1])
    return is_same_module and known.__qualname__ == layer.__qualname__


def name_of(path: str) -> str | None:
    """Return the stored name of the class at a module path, None if it has none."""
    return _names.get(path)


def class_of(name: str) -> type[nn.Module] | None:
    """Return the class with this stored name, None if no imported module has one. Imports nothing."""
    return _classes.get(name)
