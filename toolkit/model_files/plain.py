"""A model as two files: its skeleton, and its tensors in safetensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from toolkit.errors import ArtifactError, InputError, newer_format
from toolkit.model_files.borrowing import Borrowed
from toolkit.model_files.grants import Entry
from toolkit.model_files.parts import Parts, put_together, take_apart
from toolkit.model_files.safe.pickle_scan import MAX_BYTES
from toolkit.model_files.safe.safetensors_file import read_tensors

TENSORS, SKELETON = "model.safetensors", "model.skeleton"
FORMAT = 2  # of both files; a change that older versions cannot read needs the next number
SELF_CONTAINED = 1  # the format of a model that borrows nothing, which older versions can read
MAX_METADATA_LENGTH = 1 << 20
MAX_SKELETON_BYTES = MAX_BYTES + (1 << 16)


def pack(model: nn.Module) -> dict[str, bytes]:
    """Return the files of a model by name, with masks folded in, each shared tensor once, and all buffers.

    Raises:
        ArtifactError: the model has parts that cannot be stored: hooks, lambdas, tensors in plain attributes.
    """
    parts = take_apart(model)
    # A single key, because safetensors writes several in an order that changes from run to run.
    described: dict[str, Any] = {"format": SELF_CONTAINED, "ties": parts.ties}
    if parts.borrowed is not None:
        described |= {"format": FORMAT, "built": asdict(parts.borrowed)}
    metadata = {"toolkit": json.dumps(described)}
    try:
        content = safetensors.torch.save(parts.tensors, metadata)
    except Exception as error:  # a KeyError for a dtype that safetensors does not know
        reason = f"{type(error).__name__}: {error}"
        raise ArtifactError(f"the tensors of {type(model).__name__} cannot be saved: {reason}") from error
    return {TENSORS: content, SKELETON: parts.skeleton}


def open_plain(skeleton: Path, tensors: Path, allow: Sequence[Entry]) -> nn.Module:
    """Return the model in two files, on the CPU and in eval mode."""
    named, ties, borrowed = _read_tensors(tensors)  # first, because it contains the format of both
    return put_together(Parts(_read_skeleton(skeleton), named, ties, borrowed), allow, where=str(skeleton)).eval()


def _read_skeleton(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_SKELETON_BYTES:
            raise ArtifactError(f"{path} takes {size} bytes, and at most {MAX_SKELETON_BYTES} are opened")
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], Borrowed | None]:
    try:
        tensors, metadata = read_tensors(path)
    except InputError as error:
        raise ArtifactError(str(error)) from error
    content = _described(metadata.get("toolkit", ""))
    if content is None:
        raise ArtifactError(f"{path} contains tensors, but not those of a model that the toolkit saved")
    if content["format"] > FORMAT:
        raise ArtifactError(f"{path} {newer_format(content['format'], FORMAT)}")
    if content["format"] < SELF_CONTAINED or not isinstance(content.get("ties"), dict):
        raise ArtifactError(f"{path} is damaged: the format or the ties in its metadata are invalid")
    try:
        return tensors, content["ties"], Borrowed.of(content.get("built"))
    except ArtifactError as error:
        raise ArtifactError(f"{path} is damaged: {error}") from None


def _described(text: str) -> dict[str, Any] | None:
    """Return the toolkit's metadata, which has at least a format; None if the text is something else."""
    try:
        content = json.loads(text) if len(text) <= MAX_METADATA_LENGTH else None
    except (ValueError, RecursionError):
        return None
    is_own = isinstance(content, dict) and type(content.get("format")) is int
    return content if is_own else None
