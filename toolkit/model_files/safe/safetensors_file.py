"""Safetensors files, whose header is checked before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
from safetensors import SafetensorError
from torch import Tensor

from toolkit.errors import InputError

MAX_HEADER_BYTES = 8 << 20  # some hundred bytes a tensor
_LENGTH_BYTES = 8


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors, each in memory of its own, and its metadata; an `InputError` says what is wrong."""
    with _opened(path) as file:
        # Copied, because tensors begin at any byte of the mapped file, and some kernels then round differently.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
        return tensors, dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        _check_header(path)
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged or not safetensors: {' '.join(str(error).split())}") from error


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    size = path.stat().st_size
    if length > size - _LENGTH_BYTES:
        raise ValueError(f"its header claims {length} bytes, but the file has {size}")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header takes {length} bytes, and at most {MAX_HEADER_BYTES} are read")
