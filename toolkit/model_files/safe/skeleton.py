"""A module without its tensors as bytes, and back: opened by torch's restricted unpickler, which executes nothing."""

from __future__ import annotations

import io
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map

from toolkit.errors import ArtifactError, described
from toolkit.model_files.safe import unpickler as restricted
from toolkit.model_files.safe.allowed import CALLS, SAME_FUNCTIONS, is_method, may_be_called, resolve_globals, uninert
from toolkit.model_files.safe.archive import read_pickle
from toolkit.model_files.safe.pickle_scan import RefusedError, Scan, refuse_copies, scan
from toolkit.model_files.safe.structure import refuse_dishonest


def pack_skeleton(plain: nn.Module) -> bytes:
    """The module without its tensors, as bytes; `plain` is used up. Its parametrizations are kept."""
    kind = type(plain).__name__
    for module in plain.modules():
        _make_plain(module)
    file = io.BytesIO()
    try:
        torch.save(plain.to("meta"), file)
    except Exception as error:
        raise ArtifactError(f"{kind} cannot be saved: {error}") from error
    _require_bare(kind, file)
    return file.getvalue()


class _Sorted:
    """A set of which the order does not change from run to run; in a file it is a set."""

    def __init__(self, values: set[Any] | frozenset[Any]) -> None:
        self.values = values

    @classmethod
    def of(cls, value: Any) -> Any:
        return cls(value) if type(value) in (set, frozenset) else value

    def __reduce__(self) -> Any:
        return type(self.values), (sorted(self.values, key=repr),)


def _make_plain(module: nn.Module) -> None:
    """Leave nothing in a module that would be pickled by a name of no use, or differently from run to run."""
    if _parametrized_names(module):  # its class was made for it alone, and is made again on opening
        module.__class__ = parametrize.type_before_parametrizations(module)
    same = {name: SAME_FUNCTIONS[value] for name, value in vars(module).items() if is_method(value)}
    vars(module).update(same)
    module._load_state_dict_pre_hooks.clear()
    # Sorted, because the order of a set changes from run to run.
    vars(module)["_non_persistent_buffers_set"] = sorted(module._non_persistent_buffers_set)
    for name, value in vars(module).items():
        if any(type(leaf) in (set, frozenset) for leaf in tree_leaves(value)):
            vars(module)[name] = tree_map(_Sorted.of, value)
    # Equal texts are written once if they are the same object, which depends on where a module comes from.
    attributes = _interned(vars(module))
    vars(module).clear()
    vars(module).update(attributes)


def _interned(value: Any) -> Any:
    """The same with every text in it, names included, the one object of its value."""
    if type(value) is str:
        return sys.intern(value)
    if type(value) in (dict, OrderedDict):
        return type(value)((_interned(key), _interned(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(map(_interned, value))
    return value


def open_skeleton(content: bytes, allow: Sequence[type], trusted: Sequence[str], where: str) -> nn.Module:
    """The module that `pack_skeleton` wrote, on `meta`; an `ArtifactError` says why it is not opened.

    Args:
        content: the bytes.
        allow: classes that it may consist of besides those of torch.nn, torchvision, the toolkit and techniques.
        trusted: modules, imported already, from which classes and functions may come as well.
        where: what errors name.
    """
    try:
        allowed = _allowed(scan(read_pickle(io.BytesIO(content))), allow, trusted)
        with torch.device("meta"):
            model = restricted.load(io.BytesIO(content), allowed, map_location="meta")
        if not isinstance(model, nn.Module):
            raise ArtifactError(f"it holds a {type(model).__name__}, not a module")
        refuse_dishonest(model)
        uninert(model)
        for module in model.modules():
            module._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
            _parametrize_again(module)
    except ArtifactError as error:
        raise ArtifactError(f"{where} is not opened: {error}") from None
    except RefusedError as error:
        raise ArtifactError(f"{where} is damaged or not a skeleton: {error}") from error
    except Exception as error:  # whatever a made-up skeleton lacks
        raise ArtifactError(f"{where} is damaged or not a skeleton: {described(error)}") from error
    return model


def _allowed(found: Scan, allow: Sequence[type], trusted: Sequence[str]) -> list[Any]:
    """What the unpickler has to know, if all that it would be asked for is harmless."""
    if found.loads:
        raise ArtifactError("it holds tensors, not a module without them")
    pairs = resolve_globals(found.names, allow, trusted)
    known = {name: value for value, name in pairs}
    for call in found.calls:
        if not may_be_called(call.name, known.get(call.name), allow):
            raise ArtifactError(f"it calls '{call.name}', which the toolkit does not write")
        refuse_copies(call)
    made = min(found.instances - known.keys(), default=None)
    if made is not None:
        raise ArtifactError(f"it makes a '{made}' without calling it, which the toolkit does not write")
    return pairs


def _parametrize_again(module: nn.Module) -> None:
    """What `register_parametrization` does to a module's class; its parametrizations are there."""
    names = _parametrized_names(module)
    if names:
        parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)


def _parametrized_names(module: nn.Module) -> list[str]:
    # Not `is_parametrized`, which takes any ModuleDict of that name for torch's own.
    lists = module._modules.get("parametrizations")
    if not isinstance(lists, nn.ModuleDict):
        return []
    return [name for name, made in lists.items() if isinstance(made, parametrize.ParametrizationList)]


def _require_bare(kind: str, file: io.BytesIO) -> None:
    """Refuse what cannot be seen from outside: tensors and methods inside objects of other classes."""
    try:
        found = scan(read_pickle(file))
    except RefusedError as error:
        raise ArtifactError(f"{kind} cannot be saved: {error}") from error
    if found.loads:
        raise ArtifactError(f"{kind} holds a tensor inside an object of another class: register it as a buffer")
    if "builtins.getattr" in found.names:
        raise ArtifactError(f"{kind} holds a method inside an object of another class: use a function of a module")
    other = min((name for name in found.names - CALLS if name.startswith(("builtins.", "_codecs."))), default=None)
    if other is not None:
        raise ArtifactError(f"{kind} holds something that is saved as a call of '{other}': keep it out of attributes")
