"""Which classes and functions a saved skeleton may consist of. Nothing that a file names is imported."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  # its classes are looked up among what is imported
from torch import nn

from toolkit import techniques
from toolkit.errors import ArtifactError, ToolkitError

PACKAGES = ("torch.nn", "torchvision", "toolkit")
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    functools.partial,
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.hardswish),
    *(F.hardsigmoid, F.hardtanh, F.tanh, F.sigmoid, F.softmax, F.log_softmax, F.logsigmoid, F.softsign),
)
# Not written by a name of their own; what takes their place in a skeleton computes the same.
SAME_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.relu: F.relu,
    torch.tanh: F.tanh,
    torch.sigmoid: F.sigmoid,
}


def is_method(value: Any) -> bool:
    """Whether pickle would write it as an attribute of another object."""
    # Functions such as torch.exp are methods of a hidden class, and pickled as that.
    return inspect.ismethod(value) or (inspect.isbuiltin(value) and "." in value.__qualname__)


def resolve_globals(
    names: Iterable[str], allow: Sequence[type], trusted: Sequence[str] = ()
) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """The objects behind the names in a skeleton, for `torch.serialization.safe_globals`.

    Raises:
        ArtifactError: for a name that is neither allowed by default, nor in `allow`, nor of a `trusted` module.
    """
    return [(_resolve(name, allow, trusted), name) for name in names]


def _resolve(name: str, allow: Sequence[type], trusted: Sequence[str]) -> Any:
    for function in FUNCTIONS:
        if name == f"{function.__module__}.{function.__qualname__}":
            return function
    for own in allow:
        # A class from a recipe's file is known there by another module name.
        if name == own.__qualname__ or name.endswith(f".{own.__qualname__}"):
            return own
    if any(name.startswith(f"{module}.") for module in trusted):
        found = _imported(name)
        if inspect.isfunction(found) or (isinstance(found, type) and issubclass(found, nn.Module)):
            return found
    found = _imported(name) if _is_trusted(name) else None
    # Asked again by its own name: "torch.nn.modules.module.torch.fx.GraphModule" is not of torch.nn.
    if isinstance(found, type) and issubclass(found, nn.Module) and _is_trusted(f"{found.__module__}."):
        return found
    own_name = name.rpartition(".")[2]
    raise ArtifactError(
        f"it needs '{name}', which is not known to be safe: if it is yours, pass allow=[{own_name}], "
        f"or --allow with its source on the command line"
    )


def _is_trusted(name: str) -> bool:
    if any(name.startswith(f"{package}.") for package in PACKAGES):
        return True
    for plugin in techniques.installed():
        if name.startswith(f"{plugin.entry_point.module}."):
            _import_plugin(plugin.name)
            return True
    return False


def _import_plugin(name: str) -> None:
    try:
        techniques.load(name)
    except ToolkitError as error:
        raise ArtifactError(str(error)) from error


def _imported(name: str) -> Any:
    """The object of that dotted name, from modules that are imported already."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None:
            found: Any = module
            for part in parts[length:]:
                found = vars(found).get(part) if hasattr(found, "__dict__") else None
            return found
    return None
