"""The file format of stored results: tensors and JSON in safetensors format, followed by a SHA-256 checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from toolkit.errors import ToolkitError, newer_format
from toolkit.storage.tensor_stream import blocks, read_header, read_tensors

DIGEST_BYTES = 32
BLOCK_BYTES = 1 << 20
KEY = "toolkit"
FORMAT = 1  # a change that older versions cannot read needs the next number
# What a header raises that is none, and what torch raises for a shape that is none.
INVALID = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError)


class DamagedError(ToolkitError):
    """A record is missing, truncated or corrupted, or has a different format."""


@dataclass(frozen=True)
class Record:
    """Named tensors, which are not copied, and content that JSON can store."""

    tensors: Mapping[str, Tensor]
    content: Mapping[str, Any]

    def write(self, file: BinaryIO) -> None:
        """Write the record, one tensor at a time."""
        digest = hashlib.sha256()
        for block in blocks(self.tensors, {KEY: json.dumps({"format": FORMAT, **self.content})}):
            digest.update(block)
            file.write(block)
        file.write(digest.digest())


def read_record(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the content of a record.

    Raises:
        DamagedError: the file is missing, truncated or corrupted, or has a newer format.
    """
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size - DIGEST_BYTES
            if _digest(file, size_bytes) != file.read():
                raise DamagedError(f"{path} is corrupted: checksum mismatch")
            file.seek(0)
            tensors, metadata = read_tensors(file, size_bytes)
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror or error}") from error
    except INVALID as error:
        raise DamagedError(f"{path} is not a record: {error}") from error
    return tensors, _content(path, metadata)


def read_field(path: Path, name: str) -> Any:
    """Return one field of the content; neither reads the tensors nor verifies the checksum."""
    try:
        with path.open("rb") as file:
            metadata = read_header(file, path.stat().st_size)["__metadata__"]
            return json.loads(metadata[KEY])[name]
    except (OSError, *INVALID) as error:
        raise DamagedError(f"{path} is not a record: {error}") from error


def _digest(file: BinaryIO, size_bytes: int) -> bytes:
    """Return the checksum of a file's first bytes, and leave it after them."""
    digest = hashlib.sha256()
    while size_bytes > 0 and (block := file.read(min(size_bytes, BLOCK_BYTES))):
        digest.update(block)
        size_bytes -= len(block)
    return digest.digest()


def _content(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(metadata[KEY])
        if content["format"] <= FORMAT:
            return content
    except INVALID as error:
        raise DamagedError(f"{path} is not a record: {error}") from error
    raise DamagedError(f"{path} {newer_format(content['format'], FORMAT)}")
