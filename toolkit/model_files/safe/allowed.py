"""Which classes and functions a saved skeleton may consist of. Nothing that a file names is imported."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  # its classes are looked up among what is imported
from torch import nn
from torch.nn.utils.parametrizations import _OrthMaps

from toolkit.errors import ArtifactError, ToolkitError
from toolkit.hooks import loading as techniques

SHOWN = 20  # names in a sentence
PACKAGES = ("torch.nn", "torchvision", "toolkit")
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    functools.partial,
    frozenset,
    _OrthMaps,  # what `orthogonal` keeps
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.hardswish),
    *(F.hardsigmoid, F.hardtanh, F.tanh, F.sigmoid, F.softmax, F.log_softmax, F.logsigmoid, F.softsign),
)
# Called with arguments from the file; all else in a skeleton is only named, or made without a call.
CALLS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_parameter",
    "functools.partial",
    "builtins.set",
    "builtins.frozenset",
    "builtins.complex",
    "torch.Size",
    "torch.device",
}
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
) -> list[tuple[Callable[..., Any], str]]:
    """The objects behind the names in a skeleton, for `torch.serialization.add_safe_globals`.

    Raises:
        ArtifactError: for a name that is neither allowed by default, nor in `allow`, nor of a `trusted` module.
    """
    found = {name: _resolve(name, allow, trusted) for name in sorted(names) if not _is_known(name)}
    unsafe = [name for name, value in found.items() if value is None]
    if unsafe:
        raise ArtifactError(_refusal(unsafe))
    return [(_inert(value), name) for name, value in found.items()]


def may_be_called(name: str, found: Any, allow: Sequence[type]) -> bool:
    """Whether a file may call what it names, and what was found by the name: no module, but settings of a user's."""
    if not isinstance(found, type):
        return name in CALLS
    return name in CALLS or issubclass(found, enum.Enum) or (found in allow and not issubclass(found, nn.Module))


def uninert(model: nn.Module) -> None:
    """Give modules the class that they have in the file."""
    for module in model.modules():
        if "_toolkit_inert" in vars(type(module)):
            module.__class__ = type(module).__bases__[0]


def _inert(found: Any) -> Any:
    # Makes as many names of weights as a file says that there are layers.
    if isinstance(found, type) and getattr(found, "__setstate__", None) is nn.RNNBase.__setstate__:
        return type(found.__name__, (found,), {"__setstate__": nn.Module.__setstate__, "_toolkit_inert": True})
    return found


def _is_known(name: str) -> bool:
    """Whether torch's unpickler has it by itself, and it can do no harm."""
    module, _, last = name.rpartition(".")
    is_dtype = module == "torch" and isinstance(vars(torch).get(last), torch.dtype)
    return is_dtype or (name in CALLS and not any(_is_named(name, function) for function in FUNCTIONS))


def _is_named(name: str, own: Any) -> bool:
    # A class from a recipe's file is known there by another module name.
    return name == own.__qualname__ or name.endswith(f".{own.__qualname__}")


def _resolve(name: str, allow: Sequence[type], trusted: Sequence[str]) -> Any:
    for function in FUNCTIONS:
        if name == f"{function.__module__}.{function.__qualname__}":
            return function
    for own in allow:
        if _is_named(name, own):
            return own
    if _lies_in(name, trusted):
        found = _imported(name)
        # Asked again by its own name: a recipe's module imports others.
        if _is_own(found) and _lies_in(f"{found.__module__}.", trusted):
            return found
    found = _imported(name) if _is_trusted(name) else None
    # Only by its own name: "torch.nn.modules.module.torch.fx.GraphModule" is not of torch.nn.
    if isinstance(found, type) and issubclass(found, nn.Module) and name == f"{found.__module__}.{found.__qualname__}":
        return found
    return None


def _refusal(names: Sequence[str]) -> str:
    """Why a file is not opened that needs these: the first that no network consists of, else all that one might."""
    for name in names:
        if name.partition(".")[0] in {*sys.stdlib_module_names, "torch"}:
            advice = "no network of the toolkit's consists of it, so ask where the file comes from"
            return f"it needs '{name}', which is not known to be safe: {advice}"
    shown = names[:SHOWN]
    listed = ", ".join(f"'{name}'" for name in shown) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
    own = ", ".join(name.rpartition(".")[2] for name in shown)
    is_safe, it_is = ("which is", "it is") if len(names) == 1 else ("which are", "they are")
    source = "its source" if len(names) == 1 else "the source of each"
    return (
        f"it needs {listed}, {is_safe} not known to be safe: "
        f"if {it_is} yours, pass allow=[{own}], or --allow with {source} on the command line"
    )


def _lies_in(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _is_own(found: Any) -> bool:
    """Whether it is what a network of a recipe's own may hold: layers, functions, settings."""
    kinds = (nn.Module, enum.Enum)
    return inspect.isfunction(found) or (
        isinstance(found, type) and (issubclass(found, kinds) or dataclasses.is_dataclass(found))
    )


def _is_trusted(name: str) -> bool:
    if _lies_in(name, PACKAGES):
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
