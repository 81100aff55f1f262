"""A model on disk: its tensors in safetensors, and its skeleton, which is the module without them.

The skeleton is the module on `meta`, saved whole, and opened by torch's restricted unpickler with an explicit list of
classes; so a model is loaded without its recipe, and nothing in the files can execute code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit.errors import ArtifactError, InputError
from toolkit.model_files.safe.finite import not_finite
from toolkit.model_files.safe.pickle_scan import MAX_BYTES
from toolkit.model_files.safe.safetensors_file import read_tensors
from toolkit.model_files.safe.skeleton import open_skeleton, pack_skeleton
from toolkit.model_files.unsavable import refuse_by_name

TENSORS, SKELETON = "model.safetensors", "model.skeleton"
PACKED = "model.packed"  # all in one, see `toolkit.model_files.packed`
FORMAT = 1
MAX_TIES_BYTES = 1 << 20
MAX_SKELETON_BYTES = MAX_BYTES + (1 << 16)


@dataclass(frozen=True)
class Parts:
    """A model as it is stored: the module without its tensors, each tensor once, and by name the one it shares."""

    skeleton: bytes
    tensors: dict[str, Tensor]
    ties: dict[str, str]


def take_apart(model: nn.Module, fold: bool = True) -> Parts:
    """The parts of a model, which stays as it is.

    Args:
        model: an `ArtifactError` says what in it cannot be stored.
        fold: True for a model to be used: masks folded in, eval mode. False for one to be trained on: with its
            parametrizations.
    """
    refuse_by_name(model)
    try:
        plain = masks.folded(model).eval() if fold else masks.clone(model)
    except Exception as error:  # whatever `copy.deepcopy` raises
        raise ArtifactError(f"{type(model).__name__} cannot be copied: {error}") from error
    _require_finite(plain, f"{type(model).__name__} cannot be saved")
    tensors, ties = _tensors(plain)
    return Parts(pack_skeleton(plain), tensors, ties)


def put_together(
    parts: Parts, allow: Sequence[type] = (), trusted: Sequence[str] = (), where: str = "the model"
) -> nn.Module:
    """The model that `take_apart` took apart, on the CPU.

    Args:
        parts: their tensors become the model's.
        allow: classes that it may consist of besides those of torch.nn, torchvision, the toolkit and techniques.
        trusted: modules, imported already, from which classes and functions may come as well.
        where: what an `ArtifactError` names.
    """
    model = open_skeleton(parts.skeleton, allow, trusted, where)
    try:
        _fill(model, parts.tensors, parts.ties, where)
        _list_weights(model)
        _require_finite(model, where)
    except ArtifactError:
        raise
    except Exception as error:  # whatever a made-up skeleton lacks
        raise ArtifactError(f"{where} is damaged: {type(error).__name__}: {error}") from error
    return model


def pack(model: nn.Module) -> dict[str, bytes]:
    """The files of a model, by name: masks folded in, shared tensors once, buffers that are not persistent kept."""
    parts = take_apart(model)
    # One key only: safetensors writes several in an order that changes from run to run.
    metadata = {"toolkit": json.dumps({"format": FORMAT, "ties": parts.ties})}
    try:
        content = safetensors.torch.save(parts.tensors, metadata)
    except Exception as error:  # a KeyError for a dtype that safetensors does not know
        reason = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"the tensors of {type(model).__name__} cannot be saved: {reason}") from error
    return {TENSORS: content, SKELETON: parts.skeleton}


def load(directory: str | Path, allow: Sequence[type] = ()) -> nn.Module:
    """The model that a run (or one of its stages) left in `directory`, on the CPU and in eval mode.

    Args:
        directory: a run directory or one of the folders under its `stages`, or the file of a packed model.
        allow: classes of your own that the network consists of; those of torch.nn, torchvision, the toolkit and
            installed techniques are known. Nothing that the files name is imported.

    Raises:
        ArtifactError: a file is missing, damaged, or asks for a class that is not allowed.
    """
    first, *rest = files_of(Path(directory))
    if not rest:
        from toolkit.model_files.packed import open_packed  # which is made of what is here

        return open_packed(first, allow)
    parts = Parts(_read_skeleton(first), *_open_tensors(rest[0]))
    return put_together(parts, allow, where=str(first)).eval()


def files_of(directory: Path) -> list[Path]:
    """The files of the model in a directory: skeleton and tensors, or a packed file, which may be given itself."""
    if directory.is_file():
        return [directory]
    missing = [name for name in (SKELETON, TENSORS) if not (directory / name).is_file()]
    if len(missing) == 2 and (directory / PACKED).is_file():
        return [directory / PACKED]
    if missing:
        raise ArtifactError(f"{directory} holds no model: there is no {missing[0]} in it")
    return [directory / SKELETON, directory / TENSORS]


def refuse_unsavable(model: nn.Module) -> None:
    """Raise an `ArtifactError` that names what no file can hold: hooks, lambdas, tensors in plain attributes.

    Everything is tried, for what cannot be copied or written is better known before training than after it.
    """
    pack(model)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Parameters and buffers, also those that are not persistent; shared ones under each name."""
    for prefix, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, module, name, tensor


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, each once, and by name the other one that shares its tensor."""
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[int, str] = {}
    for path, _, _, tensor in named_tensors(model):
        if id(tensor) in first:
            ties[path] = first[id(tensor)]
        else:
            first[id(tensor)] = path
            # A copy, because safetensors refuses tensors that are views into one storage.
            tensors[path] = tensor.detach().to("cpu", copy=True).contiguous()
    return tensors, ties


def _require_finite(model: nn.Module, where: str) -> None:
    wrong = not_finite([*model.named_parameters(), *model.named_buffers()])
    if wrong is not None:
        raise ArtifactError(f"{where}: {wrong}, so it is of no use")


def _read_skeleton(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_SKELETON_BYTES:
            raise ArtifactError(f"{path} takes {size} bytes, more than {MAX_SKELETON_BYTES} are not opened")
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error


def _open_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors, metadata = read_tensors(path)
    except InputError as error:
        raise ArtifactError(str(error)) from error
    try:
        text = metadata.get("toolkit", "")
        content = json.loads(text) if len(text) <= MAX_TIES_BYTES else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("ties"), dict):
        raise ArtifactError(f"{path} was not written by this version of the toolkit")
    return tensors, content["ties"]


def _fill(model: nn.Module, tensors: dict[str, Tensor], ties: dict[str, str], where: str) -> None:
    parameters: dict[str, nn.Parameter] = {}
    slots = list(named_tensors(model))
    unknown = set(tensors) - {path for path, *_ in slots}
    if unknown:
        raise ArtifactError(f"{where}: the tensor '{min(unknown)}' has no place in the skeleton")
    for path, module, name, meta in slots:
        stored = ties.get(path, path)
        tensor = tensors.get(stored)
        if tensor is None or tensor.shape != meta.shape or tensor.dtype != meta.dtype:
            found = f"is {tuple(tensor.shape)} of {tensor.dtype}" if tensor is not None else "is missing"
            raise ArtifactError(
                f"{where}: the tensor '{path}' {found}, its place is {tuple(meta.shape)} of {meta.dtype}"
            )
        if isinstance(meta, nn.Parameter):
            tensor = parameters.setdefault(stored, nn.Parameter(tensor, meta.requires_grad))
        # Not into `_parameters` directly: an LSTM keeps a list of its weights, which this brings up to date.
        setattr(module, name, tensor)


@torch.no_grad()
def _list_weights(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.RNNBase):  # its list of weights has gaps where one is parametrized
            module._init_flat_weights()
