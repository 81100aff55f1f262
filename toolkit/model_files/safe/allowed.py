"""The classes and functions that a saved skeleton may consist of."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import _OrthMaps

from toolkit import stored_names
from toolkit.errors import ArtifactError, described
from toolkit.model_files.safe.refusal import refusal, suspect
from toolkit.stored_names import CORE, CORE_HOMES, MARK, path_of

PACKAGES = ("torch.nn", "torchvision", "toolkit")
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    functools.partial,
    frozenset,
    _OrthMaps,  # the setting of `orthogonal`
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.hardswish),
    *(F.hardsigmoid, F.hardtanh, F.tanh, F.sigmoid, F.softmax, F.log_softmax, F.logsigmoid, F.softsign),
)
# Called with arguments from the file. Everything else in a skeleton is only named, or made without a call.
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
# Pickle cannot name the functions on the left; a skeleton contains those on the right, which compute the same.
SAME_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.relu: F.relu,
    torch.tanh: F.tanh,
    torch.sigmoid: F.sigmoid,
}


def _no_technique(_: str) -> bool:
    return False


@dataclass(frozen=True)
class Allowed:
    """What one skeleton may consist of besides torch.nn, torchvision and the toolkit.

    Attributes:
        classes: the caller's own classes and functions.
        modules: names of imported modules whose own layers, functions and settings are allowed as well.
        import_technique: imports the installed technique that a name in the file belongs to, and returns True;
            returns False, and imports nothing, where the name belongs to none.
        packages: names of packages and modules that may be imported, and whose own layers, functions and settings are
            allowed.
    """

    classes: Sequence[Any] = ()
    modules: Sequence[str] = ()
    import_technique: Callable[[str], bool] = _no_technique
    packages: Sequence[str] = ()


def is_method(value: Any) -> bool:
    """Return whether pickle would write the value as an attribute of another object."""
    # Functions such as torch.exp are methods of a hidden class, and pickle writes them so.
    return inspect.ismethod(value) or (inspect.isbuiltin(value) and "." in value.__qualname__)


def resolve_globals(names: Iterable[str], allowed: Allowed) -> list[tuple[Callable[..., Any], str]]:
    """Return the objects behind the names in a skeleton, for `torch.serialization.add_safe_globals`.

    Raises:
        ArtifactError: a name is neither known to be safe nor `allowed`.
    """
    resolved = _resolved(names, allowed)
    unsafe = [name for name, value in resolved.items() if value is None]
    if unsafe:
        raise ArtifactError(refusal(unsafe), () if suspect(unsafe) else unsafe)
    return [(_inert(value), name) for name, value in resolved.items()]


def unknown_globals(names: Iterable[str], allowed: Allowed) -> list[str]:
    """Return the names that are neither known to be safe nor `allowed`."""
    return [name for name, value in _resolved(names, allowed).items() if value is None]


def may_be_called(name: str, value: Any, allowed: Allowed) -> bool:
    """Return whether a file may call `value` under `name`: never a module, but a setting of the caller's."""
    if not isinstance(value, type):
        return name in CALLS
    is_setting = value in allowed.classes and not issubclass(value, nn.Module)
    return name in CALLS or issubclass(value, enum.Enum) or is_setting


def restore_class(model: nn.Module) -> None:
    """Give every module the class that it has in the file, after `resolve_globals` put an inert one in its place."""
    for module in model.modules():
        if "_toolkit_inert" in vars(type(module)):
            module.__class__ = type(module).__bases__[0]


def _inert(value: Any) -> Any:
    # Setting the state of a recurrent layer makes as many names of weights as the file claims that there are layers.
    if isinstance(value, type) and getattr(value, "__setstate__", None) is nn.RNNBase.__setstate__:
        return type(value.__name__, (value,), {"__setstate__": nn.Module.__setstate__, "_toolkit_inert": True})
    return value


def _resolved(names: Iterable[str], allowed: Allowed) -> dict[str, Any]:
    return {name: _resolve(name, allowed) for name in sorted(names) if not _is_known(name)}


def _is_known(name: str) -> bool:
    """Return whether torch's unpickler knows the name by itself, and it can do no harm."""
    module, _, last = name.rpartition(".")
    is_dtype = module == "torch" and isinstance(vars(torch).get(last), torch.dtype)
    return is_dtype or (name in CALLS and not any(_is_named(name, function) for function in FUNCTIONS))


def _is_named(name: str, own: Any) -> bool:
    # The module of a class from a recipe's file may have another name here.
    return name == own.__qualname__ or name.endswith(f".{own.__qualname__}")


def _resolve(name: str, allowed: Allowed) -> Any:
    if name.startswith(MARK):
        return _stored_class(name, allowed)
    for function in FUNCTIONS:
        if name == f"{function.__module__}.{function.__qualname__}":
            return function
    if (own := _among(name, allowed.classes)) is not None:
        return own
    if _lies_in(name, allowed.packages):
        _import_module_of(name)
    trusted = (*allowed.modules, *allowed.packages)
    if _lies_in(name, trusted):
        value = _imported(name)
        # Asked again by its own name, because a recipe's module imports others.
        if _is_own(value) and _lies_in(f"{value.__module__}.", trusted):
            return value
    if _lies_in(name, ("torchvision",)):
        importlib.import_module("torchvision")  # only now, because it takes as long to import as torch
    value = _imported(name) if _lies_in(name, PACKAGES) or allowed.import_technique(name) else None
    # By its own name only: "torch.nn.modules.module.torch.fx.GraphModule" is not of torch.nn.
    return value if isinstance(value, type) and issubclass(value, nn.Module) and name == path_of(value) else None


def _among(name: str, objects: Sequence[Any]) -> Any:
    """Return the object of that name among the caller's: by its module too, or at least by its own name."""
    exact = next((own for own in objects if name == path_of(own)), None)
    if exact is not None or _lies_in(name, PACKAGES):  # a class of the caller's may be called Linear, too
        return exact
    return next((own for own in objects if _is_named(name, own)), None)


def _import_module_of(name: str) -> None:
    """Import the module that a dotted name lies in, which the caller allows; a program is never run."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if "__main__" in parts[:length]:
            return
        module = ".".join(parts[:length])
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        except Exception as error:
            raise ArtifactError(f"it needs '{name}', but '{module}' cannot be imported: {described(error)}") from error
        return


def _stored_class(name: str, allowed: Allowed) -> Any:
    """Return the class of a stored name, if it is the toolkit's, an installed technique's or the caller's."""
    stored_name = name.removeprefix(MARK)
    is_trusted = _import_core(stored_name) or allowed.import_technique(name)
    layer = stored_names.class_of(stored_name)
    if layer is None or is_trusted or layer in allowed.classes:
        return layer
    return layer if _lies_in(path_of(layer), (*allowed.modules, *allowed.packages)) else None


def _import_core(stored_name: str) -> bool:
    """Import the toolkit's own layers if the name is of one of them; return whether it is."""
    is_core = stored_name.startswith(f"{CORE}.")
    for module in CORE_HOMES if is_core else ():
        importlib.import_module(module)
    return is_core


def _lies_in(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _is_own(value: Any) -> bool:
    """Return whether a network from a recipe may contain the value: a layer, a function or a setting."""
    kinds = (nn.Module, enum.Enum)
    return inspect.isfunction(value) or (
        isinstance(value, type) and (issubclass(value, kinds) or dataclasses.is_dataclass(value))
    )


def _imported(name: str) -> Any:
    """Return the object with that dotted name from imported modules; None if there is none."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None:
            value: Any = module
            for part in parts[length:]:
                value = vars(value).get(part) if hasattr(value, "__dict__") else None
            return value
    return None
