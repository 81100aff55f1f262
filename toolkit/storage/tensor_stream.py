"""Tensors in safetensors format, written and read one by one, so that none is in memory twice."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from toolkit.tensor_memory import memory

ALIGNMENT = 8  # bytes; the header ends at a multiple
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def blocks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file: the header, then one tensor at a time, the widest dtypes first."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        yield memory(tensors[name])


def read_tensors(file: BinaryIO, size_bytes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the metadata at the beginning of a file.

    Args:
        file: at its beginning.
        size_bytes: where the last tensor ends.

    Raises:
        ValueError: the header does not describe exactly these bytes; before any memory for tensors is requested.
    """
    header = read_header(file, size_bytes)
    metadata = header.pop("__metadata__", {})
    layout = list(_layout(header, size_bytes - file.tell()))
    return {name: _read(file, dtype, shape) for name, dtype, shape in layout}, metadata


def read_header(file: BinaryIO, size_bytes: int) -> dict[str, Any]:
    """Return the header at the beginning of a file of this size; a `ValueError` if there is none."""
    length = int.from_bytes(file.read(8), "little")
    if length > size_bytes - 8:
        raise ValueError("its header is longer than the file")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    return header


def _layout(header: Mapping[str, Any], size_bytes: int) -> Iterator[tuple[str, torch.dtype, list[int]]]:
    """Yield name, dtype and shape of each tensor in the order of its bytes, which must fill exactly `size_bytes`."""
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, start = DTYPES[entry["dtype"]], entry["shape"], end
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"the shape of '{name}' is {shape}")
        end += math.prod(shape) * dtype.itemsize
        if entry["data_offsets"] != [start, end]:
            raise ValueError(f"'{name}' is not where the tensor before it ends")
        yield name, dtype, shape
    if end != size_bytes:
        raise ValueError(f"its tensors take {end} bytes, found {size_bytes}")


def _read(file: BinaryIO, dtype: torch.dtype, shape: list[int]) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    if file.readinto(memory(tensor)) != tensor.nbytes:  # type: ignore[attr-defined]  # buffered
        raise ValueError("it ends inside a tensor")
    return tensor
