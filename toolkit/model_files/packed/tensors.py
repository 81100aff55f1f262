"""One tensor in a packed file, in the shortest of a few forms; its values come back bit for bit.

A form says where the nonzero entries are (everywhere, or at coded positions), how they are written (one after the
other, or as indices into a table), and whether values take half as many bits because all of them fit in float16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.model_files.packed import positions
from toolkit.model_files.packed.streams import DamagedError, Reader, Writer, bits_of, levels_of
from toolkit.tensor_memory import memory

MAX_TABLE = 1 << 16
SPARSE, LEVELLED, TABLE, HALF = 1, 2, 4, 8  # flags of a form
FORMS = 16


def write(writer: Writer, tensor: Tensor) -> Callable[[], None]:
    """Write what precedes the symbols; return a function that writes the symbols, to be called after all tensors."""
    bits = _as_bits(tensor)
    shape = _as_matrix(tensor.shape)
    dense, sparse = _Values(bits, tensor.dtype), _Values(bits[bits != 0], tensor.dtype)
    places = positions.plan((bits != 0).reshape(shape)) if len(bits) > len(sparse.bits) else None
    if places is None or dense.size_bytes <= sparse.size_bytes + places.size_bytes:
        writer.number(dense.form)
        return dense.write(writer)
    writer.number(sparse.form | SPARSE | (LEVELLED if places.rows is not None else 0))
    nonzero = (bits != 0).reshape(shape)
    chances = positions.write_head(writer, nonzero, places)
    writer.number(len(sparse.bits))
    write_values = sparse.write(writer)

    def write_symbols() -> None:
        writer.bits(nonzero.reshape(-1), chances)
        write_values()

    return write_symbols


def read(reader: Reader, meta: Tensor) -> Callable[[], Tensor]:
    """Read what precedes the symbols, and return a function that reads them into a tensor like `meta`."""
    form = reader.number()
    if form >= FORMS or (form & LEVELLED and not form & SPARSE):
        raise DamagedError(f"a tensor in it has the unknown form {form}")
    count = entries = meta.numel()
    chances = None
    if form & SPARSE:
        chances = positions.read_head(reader, _as_matrix(meta.shape), bool(form & LEVELLED))
        count = reader.number()
        if count > entries:
            raise DamagedError(f"a tensor in it claims {count} nonzero entries of {entries}")
    read_values = _read_values(reader, form, count, meta.dtype)

    def read_symbols() -> Tensor:
        if chances is None:
            return _as_tensor(read_values(), meta)
        nonzero = reader.bits(chances)
        if int(nonzero.sum()) != count:
            raise DamagedError(f"a tensor in it should have {count} nonzero entries, but has {int(nonzero.sum())}")
        bits = np.zeros(entries, dtype=_unsigned(meta.dtype))
        bits[nonzero] = read_values()
        return _as_tensor(bits, meta)

    return read_symbols


@dataclass(frozen=True)
class _Values:
    """Entries as unsigned integers with the same bits, to be written in the shorter one of two forms."""

    bits: NDArray[Any]
    dtype: torch.dtype

    @cached_property
    def is_half(self) -> bool:
        """Whether all values fit in float16."""
        return self.dtype == torch.float32 and np.array_equal(_widened(_halved(self.bits)), self.bits)

    @cached_property
    def distinct(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """The distinct values, for each entry the index of its value, and how often each value occurs."""
        values, indices, counts = np.unique(self.bits, return_inverse=True, return_counts=True)
        return values, indices.reshape(-1), counts

    @property
    def form(self) -> int:
        return (TABLE if self._is_table else 0) | (HALF if self.is_half else 0)

    @property
    def size_bytes(self) -> float:
        return self._table_bytes if self._is_table else self._plain_bytes

    @property
    def _is_table(self) -> bool:
        return self._table_bytes < self._plain_bytes

    @property
    def _each(self) -> int:
        return 2 if self.is_half else self.bits.itemsize

    @property
    def _plain_bytes(self) -> float:
        return len(self.bits) * self._each

    @cached_property
    def _table_bytes(self) -> float:
        values, _, counts = self.distinct
        if not 0 < len(values) <= MAX_TABLE:
            return float("inf")
        head = len(values) * self._each + (len(values) + 1) // 2 + 1
        return head + bits_of(counts, levels_of(counts)) / 8

    def write(self, writer: Writer) -> Callable[[], None]:
        if not self._is_table:
            writer.raw(self._written(self.bits))
            return lambda: None
        values, indices, counts = self.distinct
        levels = levels_of(counts)
        writer.number(len(values))
        writer.raw(self._written(values))
        if len(values) == 1:  # the indices contain no information
            return lambda: None
        writer.nibbles(levels)
        return lambda: writer.symbols(indices, levels)

    def _written(self, bits: NDArray[Any]) -> bytes:
        shortened = _halved(bits) if self.is_half else bits
        return shortened.astype(shortened.dtype.newbyteorder("<")).tobytes()


def _read_values(reader: Reader, form: int, count: int, dtype: torch.dtype) -> Callable[[], NDArray[Any]]:
    written = np.dtype(np.uint16) if form & HALF else _unsigned(dtype)
    if form & HALF and dtype != torch.float32:
        raise DamagedError(f"a tensor of {dtype} in it is written in float16")

    def values(length: int) -> NDArray[Any]:
        bits = np.frombuffer(reader.raw(length * written.itemsize), dtype=written.newbyteorder("<")).astype(written)
        return _widened(bits) if form & HALF else bits

    if not form & TABLE:
        plain = values(count)
        return lambda: plain
    size = reader.number()
    if not 0 < size <= MAX_TABLE:
        raise DamagedError(f"a table in it has {size} values")
    table = values(size)
    if size == 1:
        return lambda: np.repeat(table, count)
    levels = reader.nibbles(size)
    return lambda: table[reader.symbols(count, levels)]


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    rows = shape[0] if len(shape) > 1 else 1
    entries = int(np.prod(shape, dtype=object))
    return rows, entries // rows if rows else 0


def _as_bits(tensor: Tensor) -> NDArray[Any]:
    bits: NDArray[Any] = np.asarray(memory(tensor)).view(_unsigned(tensor.dtype))
    return bits


def _as_tensor(bits: NDArray[Any], meta: Tensor) -> Tensor:
    if not len(bits):
        return torch.empty(meta.shape, dtype=meta.dtype)
    return torch.from_numpy(bits.view(np.uint8).copy()).view(meta.dtype).reshape(meta.shape)


def _unsigned(dtype: torch.dtype) -> np.dtype[Any]:
    # Only complex128 has more bytes than any integer dtype.
    if dtype.itemsize > 8:
        raise DamagedError(f"tensors of {dtype} cannot be packed")
    return np.dtype(f"u{dtype.itemsize}")


def _halved(bits: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        halved: NDArray[Any] = bits.view(np.float32).astype(np.float16).view(np.uint16)
    return halved


def _widened(halves: NDArray[Any]) -> NDArray[Any]:
    widened: NDArray[Any] = halves.view(np.float16).astype(np.float32).view(np.uint32)
    return widened
