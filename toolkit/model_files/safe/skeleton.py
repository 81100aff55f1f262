"""A module without its tensors as bytes, and back: torch's restricted unpickler opens it and executes nothing."""

from __future__ import annotations

import io
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map

from toolkit.errors import ArtifactError, described
from toolkit.model_files.safe import unpickler
from toolkit.model_files.safe.allowed import (
    CALLS,
    SAME_FUNCTIONS,
    Allowed,
    is_method,
    may_be_called,
    resolve_globals,
    restore_class,
    unknown_globals,
)
from toolkit.model_files.safe.archive import read_pickle
from toolkit.model_files.safe.naming import NAMING
from toolkit.model_files.safe.pickle_scan import RefusedError, Scan, check_copies, scan
from toolkit.model_files.safe.structure import check_structure


def pack_skeleton(plain: nn.Module) -> bytes:
    """Return the module without its tensors, as bytes: the same bytes for equal modules.

    Args:
        plain: may have parametrizations; it must not be used afterwards.
    """
    kind = type(plain).__name__
    for module in plain.modules():
        _make_plain(module)
    file = io.BytesIO()
    try:
        torch.save(plain.to("meta"), file, pickle_module=NAMING)
        contents = scan(read_pickle(file))
    except Exception as error:
        raise ArtifactError(f"{kind} cannot be saved: {error}") from error
    _check_bare(kind, contents)
    return file.getvalue()


class _Sorted:
    """A set whose order does not change from run to run; in a file it is a set again."""

    def __init__(self, values: set[Any] | frozenset[Any]) -> None:
        self.values = values

    @classmethod
    def of(cls, value: Any) -> Any:
        return cls(value) if type(value) in (set, frozenset) else value

    def __reduce__(self) -> Any:
        return type(self.values), (sorted(self.values, key=repr),)


def _make_plain(module: nn.Module) -> None:
    """Replace what pickle would write under a useless name, or differently from run to run."""
    if _parametrized_names(module):  # its class exists for it alone, and is created again on opening
        module.__class__ = parametrize.type_before_parametrizations(module)
    same = {name: SAME_FUNCTIONS[value] for name, value in vars(module).items() if is_method(value)}
    vars(module).update(same)
    module._load_state_dict_pre_hooks.clear()
    # Sorted, because the order of a set changes from run to run.
    vars(module)["_non_persistent_buffers_set"] = sorted(module._non_persistent_buffers_set)
    for name, value in vars(module).items():
        if any(type(leaf) in (set, frozenset) for leaf in tree_leaves(value)):
            vars(module)[name] = tree_map(_Sorted.of, value)
    # Pickle writes equal texts once only if they are the same object, which depends on where a module comes from.
    attributes = _interned(vars(module))
    vars(module).clear()
    vars(module).update(attributes)


def _interned(value: Any) -> Any:
    """Return the same value, in which equal texts (names included) are the same object."""
    if type(value) is str:
        return sys.intern(value)
    if type(value) in (dict, OrderedDict):
        return type(value)((_interned(key), _interned(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(map(_interned, value))
    return value


def open_skeleton(
    content: bytes, allowed: Allowed, where: str, complete: Callable[[nn.Module], None] = lambda _: None
) -> nn.Module:
    """Return the module that `pack_skeleton` wrote, on `meta`.

    Args:
        content: the bytes.
        allowed: what it may consist of besides torch.nn, torchvision and the toolkit.
        where: what errors name.
        complete: puts parts into the module that are not in the bytes.

    Raises:
        ArtifactError: the bytes are damaged, or ask for more than is allowed.
    """
    try:
        pairs = _allowed_globals(scan(read_pickle(io.BytesIO(content))), allowed)
        with torch.device("meta"):
            model = unpickler.load(io.BytesIO(content), pairs, map_location="meta")
        if not isinstance(model, nn.Module):
            raise ArtifactError(f"it contains a {type(model).__name__}, not a module")
        check_structure(model)
        restore_class(model)
        complete(model)
        for module in model.modules():
            module._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
            _parametrize_again(module)
    except ArtifactError as error:
        raise ArtifactError(f"{where} is not opened: {error}", error.unknown) from None
    except RefusedError as error:
        raise ArtifactError(f"{where} is damaged or not a skeleton: {error}") from error
    except Exception as error:  # anything may be missing from a forged skeleton
        raise ArtifactError(f"{where} is damaged or not a skeleton: {described(error)}") from error
    return model


def unknown_names(content: bytes, allowed: Allowed) -> list[str]:
    """Return the names in a skeleton that are neither known to be safe nor `allowed`; none if it is damaged."""
    try:
        return unknown_globals(scan(read_pickle(io.BytesIO(content))).names, allowed)
    except Exception:  # `open_skeleton` says what is wrong
        return []


def _allowed_globals(contents: Scan, allowed: Allowed) -> list[Any]:
    """Return the objects that the unpickler needs; raise unless everything that it would do with them is harmless."""
    if contents.loads:
        raise ArtifactError("it contains tensors, not a module without them")
    pairs = resolve_globals(contents.names, allowed)
    known = {name: value for value, name in pairs}
    for call in contents.calls:
        if not may_be_called(call.name, known.get(call.name), allowed):
            raise ArtifactError(f"it calls '{call.name}', which the toolkit does not write")
        check_copies(call)
    uncalled = min(contents.instances - known.keys(), default=None)
    if uncalled is not None:
        raise ArtifactError(f"it makes a '{uncalled}' without calling it, which the toolkit does not write")
    return pairs


def _parametrize_again(module: nn.Module) -> None:
    """Do to a module's class what `register_parametrization` does; the parametrizations themselves are there."""
    names = _parametrized_names(module)
    if names:
        parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)


def _parametrized_names(module: nn.Module) -> list[str]:
    # Not `is_parametrized`, which would accept any ModuleDict with that name.
    lists = module._modules.get("parametrizations")
    if not isinstance(lists, nn.ModuleDict):
        return []
    return [name for name, part in lists.items() if isinstance(part, parametrize.ParametrizationList)]


def _check_bare(kind: str, contents: Scan) -> None:
    """Refuse what cannot be seen from outside: tensors and methods inside objects of other classes."""
    if contents.loads:
        raise ArtifactError(f"{kind} has a tensor inside an object of another class; register it as a buffer")
    if "builtins.getattr" in contents.names:
        raise ArtifactError(f"{kind} has a method inside an object of another class; use a top-level function")
    called = (name for name in contents.names - CALLS if name.startswith(("builtins.", "_codecs.")))
    other = min(called, default=None)
    if other is not None:
        raise ArtifactError(f"{kind} has a value that is saved as a call of '{other}'; keep it out of attributes")
