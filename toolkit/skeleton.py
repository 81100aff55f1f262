"""A module without its tensors as bytes, and back: opened by torch's restricted unpickler, which executes nothing."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from toolkit.allowed import SAME_FUNCTIONS, is_method, resolve_globals
from toolkit.errors import ArtifactError


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


def _make_plain(module: nn.Module) -> None:
    """Leave nothing in a module that would be pickled by a name of no use, or differently from run to run."""
    if parametrize.is_parametrized(module):  # its class was made for it alone, and is made again on opening
        module.__class__ = parametrize.type_before_parametrizations(module)
    same = {name: SAME_FUNCTIONS[value] for name, value in vars(module).items() if is_method(value)}
    vars(module).update(same)
    module._load_state_dict_pre_hooks.clear()
    # Sorted, because the order of a set changes from run to run.
    vars(module)["_non_persistent_buffers_set"] = sorted(module._non_persistent_buffers_set)


def open_skeleton(content: bytes, allow: Sequence[type], trusted: Sequence[str], where: str) -> nn.Module:
    """The module that `pack_skeleton` wrote, on `meta`; an `ArtifactError` says why it is not opened.

    Args:
        content: the bytes.
        allow: classes that it may consist of besides those of torch.nn, torchvision, the toolkit and techniques.
        trusted: modules, imported already, from which classes and functions may come as well.
        where: what errors name.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
        allowed = resolve_globals(names, allow, trusted)
        with torch.device("meta"), torch.serialization.safe_globals(allowed):
            model = torch.load(io.BytesIO(content), map_location="meta", weights_only=True)
    except ArtifactError as error:
        raise ArtifactError(f"{where} is not opened: {error}") from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArtifactError(f"{where} is damaged or not a skeleton: {reason}") from error
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"{where} holds a {type(model).__name__}, not a module")
    try:
        for module in model.modules():
            module._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
            _parametrize_again(module)
    except Exception as error:  # whatever a made-up skeleton lacks
        raise ArtifactError(f"{where} is damaged: {type(error).__name__}: {error}") from error
    return model


def _parametrize_again(module: nn.Module) -> None:
    """What `register_parametrization` does to a module's class; its parametrizations are there."""
    lists = module._modules.get("parametrizations")
    if not isinstance(lists, nn.ModuleDict) or not all(
        isinstance(made, parametrize.ParametrizationList) for made in lists.values()
    ):
        return
    parametrize._inject_new_class(module)
    for name in lists:
        parametrize._inject_property(module, name)


def _require_bare(kind: str, file: io.BytesIO) -> None:
    """Refuse what cannot be seen from outside: tensors and methods inside objects of other classes."""
    with zipfile.ZipFile(file) as archive:
        if any("/data/" in name for name in archive.namelist()):
            raise ArtifactError(f"{kind} holds a tensor inside an object of another class: register it as a buffer")
    file.seek(0)
    if "builtins.getattr" in torch.serialization.get_unsafe_globals_in_checkpoint(file):
        raise ArtifactError(f"{kind} holds a method inside an object of another class: use a function of a module")
