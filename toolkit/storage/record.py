"""One file of tensors and JSON that knows whether it is intact: safetensors, followed by the SHA-256 of it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from toolkit.errors import ToolkitError, newer_format

DIGEST_BYTES = 32
KEY = "toolkit"
FORMAT = 1  # a change that older versions cannot read needs the next number


class DamagedError(ToolkitError):
    """A record is missing, truncated or changed, or of another format."""


def pack_record(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> bytes:
    """The bytes of a record: `tensors` by name, no two in the same memory, and `content`, which must fit JSON."""
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    packed = safetensors.torch.save(plain, {KEY: json.dumps({"format": FORMAT, **content})})
    return packed + hashlib.sha256(packed).digest()


def read_record(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the content of a record; a `DamagedError` unless they are exactly what was written."""
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from error
    packed = whole[:-DIGEST_BYTES]
    if hashlib.sha256(packed).digest() != whole[-DIGEST_BYTES:]:
        raise DamagedError(f"{path} is damaged: its content has another checksum")
    try:
        content = _content(packed)
        if content["format"] > FORMAT:
            raise DamagedError(f"{path} {newer_format(content['format'], FORMAT)}")
        return safetensors.torch.load(packed), content
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise DamagedError(f"{path} is not a record: {error}") from error


def read_field(path: Path, name: str) -> Any:
    """One field of a record's content, without its tensors and without proof that they are intact."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise DamagedError(f"{path} is damaged: its header is longer than the file")
            return _header(file.read(length))[name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise DamagedError(f"{path} is not a record: {error}") from error


def _content(packed: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<Q", packed)
    return _header(packed[8 : 8 + length])


def _header(header: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.loads(header)["__metadata__"][KEY])
    return content
