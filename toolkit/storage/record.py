"""The file format of stored results: tensors and JSON in safetensors format, followed by a SHA-256 checksum."""

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
    """A record is missing, truncated or corrupted, or has a different format."""


def pack_record(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record with these named tensors and this JSON-serializable content."""
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    body = safetensors.torch.save(plain, {KEY: json.dumps({"format": FORMAT, **content})})
    return body + hashlib.sha256(body).digest()


def read_record(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the content of a record.

    Raises:
        DamagedError: the file is missing, truncated or corrupted, or has a newer format.
    """
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror or error}") from error
    body = stored[:-DIGEST_BYTES]
    if hashlib.sha256(body).digest() != stored[-DIGEST_BYTES:]:
        raise DamagedError(f"{path} is corrupted: checksum mismatch")
    try:
        content = _content(body)
        if content["format"] > FORMAT:
            raise DamagedError(f"{path} {newer_format(content['format'], FORMAT)}")
        return safetensors.torch.load(body), content
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise DamagedError(f"{path} is not a record: {error}") from error


def read_field(path: Path, name: str) -> Any:
    """Return one field of the content; neither reads the tensors nor verifies the checksum."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise DamagedError(f"{path} is corrupted: its header is longer than the file")
            return _header(file.read(length))[name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise DamagedError(f"{path} is not a record: {error}") from error


def _content(body: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<Q", body)
    return _header(body[8 : 8 + length])


def _header(header: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.loads(header)["__metadata__"][KEY])
    return content
