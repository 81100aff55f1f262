"""A model as tensors and a skeleton, and back.

The skeleton is the pickled module on `meta`. It is opened by torch's restricted unpickler with an explicit list of
classes. So a model is loaded without its recipe, and nothing in the file can execute code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit.errors import ArtifactError
from toolkit.model_files.borrowing import Borrowed, put_back, take_out
from toolkit.model_files.grants import Entry, granted
from toolkit.model_files.safe.allowed import Allowed
from toolkit.model_files.safe.finite import not_finite, too_large
from toolkit.model_files.safe.refusal import refusal_to_build
from toolkit.model_files.safe.skeleton import open_skeleton, pack_skeleton, unknown_names
from toolkit.model_files.techniques import import_technique_of
from toolkit.model_files.unsavable import refuse_by_name
from toolkit.replacements import replaced_layers


@dataclass(frozen=True)
class Parts:
    """The module without its tensors, each tensor once, and for each further name of a tensor the name it is under.

    Lambdas and classes inside functions are borrowed from the network that the recipe's source builds.
    """

    skeleton: bytes
    tensors: dict[str, Tensor]
    ties: dict[str, str]
    borrowed: Borrowed | None = None


def take_apart(model: nn.Module, fold: bool = True) -> Parts:
    """Return the parts of a model, and leave the model unchanged.

    Args:
        model: an `ArtifactError` says what in it cannot be stored.
        fold: True for a model that will be used, with its masks folded in and in eval mode; False for one that will be
            trained further, with its parametrizations.
    """
    refuse_by_name(model)
    try:
        plain = masks.folded(model).eval() if fold else masks.clone(model)
    except Exception as error:  # whatever `copy.deepcopy` raises
        raise ArtifactError(f"{type(model).__name__} cannot be copied: {error}") from error
    _require_finite(plain, f"{type(model).__name__} cannot be saved")
    tensors, ties = _tensors(plain)
    borrowed = take_out(plain)
    return Parts(pack_skeleton(plain), tensors, ties, borrowed)


def put_together(
    parts: Parts, allow: Sequence[Entry] = (), trusted: Sequence[str] = (), where: str = "the model"
) -> nn.Module:
    """Return the model that `take_apart` took apart, on the CPU.

    Args:
        parts: their tensors become the model's.
        allow: what it may consist of besides the classes of torch.nn, torchvision, the toolkit and techniques.
        trusted: names of imported modules whose own classes and functions are allowed as well.
        where: what an `ArtifactError` names.
    """
    complete = completion(parts.skeleton, parts.borrowed, allow, where, trusted)
    model = open_skeleton(parts.skeleton, allowed(allow, trusted), where, complete)
    try:
        _fill(model, parts.tensors, parts.ties, where)
        _list_weights(model)
        _require_finite(model, where)
    except ArtifactError:
        raise
    except Exception as error:  # anything may be missing from a forged skeleton
        raise ArtifactError(f"{where} is damaged: {type(error).__name__}: {error}") from error
    return model


def allowed(allow: Sequence[Entry], trusted: Sequence[str] = ()) -> Allowed:
    """Return what a file may consist of: the layers of installed techniques, and what the caller allows or trusts."""
    grant = granted(allow)
    return Allowed(grant.objects, trusted, import_technique_of, grant.packages)


def completion(
    skeleton: bytes, borrowed: Borrowed | None, allow: Sequence[Entry], where: str, trusted: Sequence[str] = ()
) -> Callable[[nn.Module], None]:
    """Return a function that puts borrowed parts into an opened skeleton; an `ArtifactError` says what to allow."""
    if borrowed is None:
        return lambda _: None
    builder = granted(allow).builders.get(borrowed.source)
    if builder is None:
        reason = refusal_to_build(borrowed.source, unknown_names(skeleton, allowed(allow, trusted)))
        raise ArtifactError(f"{where} is not opened: {reason}")
    return partial(put_back, borrowed=borrowed, builder=builder)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield path, module, attribute and tensor of all parameters and buffers, shared ones under each of their names."""
    for prefix, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, module, name, tensor


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor under its first name, and this name for each further name."""
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[int, str] = {}
    storages: set[int] = set()
    for path, _, _, tensor in named_tensors(model):
        if id(tensor) in first:
            ties[path] = first[id(tensor)]
        else:
            first[id(tensor)] = path
            # A copy of a part of a storage, because safetensors refuses tensors that are views into one.
            storage = tensor.untyped_storage()
            is_view = storage.nbytes() != tensor.nbytes or storage.data_ptr() in storages
            storages.add(storage.data_ptr())
            tensors[path] = tensor.detach().to("cpu", copy=is_view).contiguous()
    return tensors, ties


def _require_finite(model: nn.Module, where: str) -> None:
    problem = not_finite([*model.named_parameters(), *model.named_buffers()])
    problem = problem or too_large(
        (f"{layer.path}.{name}", buffer)
        for layer in replaced_layers(model)
        for name, buffer in layer.module.named_buffers()
    )
    if problem is not None:
        raise ArtifactError(f"{where}: {problem}, so the model is unusable")


def _fill(model: nn.Module, tensors: dict[str, Tensor], ties: dict[str, str], where: str) -> None:
    parameters: dict[str, nn.Parameter] = {}
    slots = list(named_tensors(model))
    unknown = set(tensors) - {path for path, *_ in slots}
    if unknown:
        raise ArtifactError(f"{where}: the tensor '{min(unknown)}' has no place in the skeleton")
    for path, module, name, meta in slots:
        source = ties.get(path, path)
        tensor = tensors.get(source)
        if tensor is None or tensor.shape != meta.shape or tensor.dtype != meta.dtype:
            actual = f"is {tuple(tensor.shape)} of {tensor.dtype}" if tensor is not None else "is missing"
            expected = f"{tuple(meta.shape)} of {meta.dtype}"
            raise ArtifactError(f"{where}: the tensor '{path}' {actual}, but the skeleton needs {expected}")
        if isinstance(meta, nn.Parameter):
            tensor = parameters.setdefault(source, nn.Parameter(tensor, meta.requires_grad))
        # Not into `_parameters` directly: an LSTM keeps a list of its weights, which setattr brings up to date.
        setattr(module, name, tensor)


@torch.no_grad()
def _list_weights(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.RNNBase):  # its list of weights has gaps where one is parametrized
            module._init_flat_weights()
