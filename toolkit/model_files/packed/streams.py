"""The two streams of a packed file: plain bytes, and symbols, which a range coder makes as short as their entropy.

The coder is that of `constriction` (Bamler, "Understanding entropy coding with asymmetric numeral systems", 2022).
Every probability is a quotient of integers in the file, so that all machines compute the same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ToolkitError

SCALE = 1 << 16  # of probabilities of bits
LEVELS = 16  # of the frequencies of symbols, each the square root of two times the one before
WEIGHTS = np.array([isqrt(1 << (level + 16)) for level in range(LEVELS)], dtype=np.float64)
MAX_VARINT_BYTES = 9
PART = 1 << 20  # symbols


class DamagedError(ValueError):
    """A packed file cannot be read; the message says why, and leaves the file's name to the caller."""


class Writer:
    """Writes both streams."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._coder: Any = _constriction().stream.queue.RangeEncoder()

    def raw(self, content: bytes) -> None:
        """Write bytes as they are."""
        self._bytes += content

    def number(self, value: int) -> None:
        """Write an integer from 0, seven bits per byte."""
        while value >= 128:
            self._bytes.append(value & 127 | 128)
            value >>= 7
        self._bytes.append(value)

    def nibbles(self, values: Sequence[int] | NDArray[Any]) -> None:
        """Write integers from 0 to 15, two per byte."""
        even = [*map(int, values), *[0] * (len(values) % 2)]
        self._bytes += bytes(low | high << 4 for low, high in zip(even[::2], even[1::2], strict=True))

    def bits(self, bits: NDArray[np.bool_], chances: NDArray[np.uint16]) -> None:
        """Code bits, each with its own chance of being set, from 1 to `SCALE`."""
        model = _constriction().stream.model.Bernoulli(perfect=False)
        for part in _parts(len(bits)):
            self._coder.encode(bits[part].astype(np.int32), model, chances[part] / SCALE)

    def symbols(self, symbols: NDArray[Any], levels: NDArray[Any]) -> None:
        """Code symbols, each an index into `levels`, which say how frequent each symbol is."""
        model = _categorical(levels)
        for part in _parts(len(symbols)):
            self._coder.encode(symbols[part].astype(np.int32), model)

    def content(self) -> bytes:
        """Return everything that was written."""
        return bytes(self._bytes) + self._coder.get_compressed().astype("<u4").tobytes()


class Reader:
    """Reads what a `Writer` wrote, in the same order: first the bytes and then, after `begin_symbols`, the symbols."""

    def __init__(self, content: bytes) -> None:
        self._content, self._position = content, 0
        self._coder: Any = None

    def raw(self, length: int) -> bytes:
        """Return the next bytes; a `DamagedError` if fewer are left."""
        end = self._position + length
        if end > len(self._content):
            raise DamagedError(f"{length} bytes should follow, but {len(self._content) - self._position} do")
        part, self._position = self._content[self._position : end], end
        return part

    def number(self) -> int:
        """Return the next integer."""
        value = 0
        for place in range(MAX_VARINT_BYTES):
            (byte,) = self.raw(1)
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise DamagedError("a number in it has no end")

    def nibbles(self, count: int) -> NDArray[np.uint8]:
        """Return the next `count` integers from 0 to 15."""
        packed = np.frombuffer(self.raw((count + 1) // 2), dtype=np.uint8)
        return np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:count]

    def begin_symbols(self) -> None:
        """End the bytes; everything after them is symbols."""
        rest = self._content[self._position :]
        if len(rest) % 4:
            raise DamagedError("its symbols end within a word")
        self._coder = _constriction().stream.queue.RangeDecoder(np.frombuffer(rest, dtype="<u4").astype(np.uint32))

    def bits(self, chances: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Return the next bits, one for each chance."""
        model = _constriction().stream.model.Bernoulli(perfect=False)
        bits = np.zeros(len(chances), dtype=np.bool_)
        for part in _parts(len(chances)):
            bits[part] = self._coder.decode(model, chances[part] / SCALE)
        return bits

    def symbols(self, count: int, levels: NDArray[Any]) -> NDArray[np.int32]:
        """Return the next `count` symbols."""
        model = _categorical(levels)
        symbols = np.zeros(count, dtype=np.int32)
        for part in _parts(count):
            symbols[part] = self._coder.decode(model, part.stop - part.start)
        return symbols


def levels_of(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Return the level of each symbol, from 0 to `LEVELS` - 1, by how often it occurs."""
    levels = np.round(2 * np.log2(counts / counts.max())) + LEVELS - 1
    return np.clip(levels, 0, LEVELS - 1).astype(np.int64)


def bits_of(counts: NDArray[Any], levels: NDArray[Any]) -> float:
    """Return how many bits symbols of these levels take, if they occur as often as `counts` says."""
    shares = WEIGHTS[levels] / WEIGHTS[levels].sum()
    return float(-(counts * np.log2(shares)).sum())


def _parts(length: int) -> list[slice]:
    """Return slices of at most `PART` symbols, because the coder takes numbers of four or eight bytes for each."""
    return [slice(start, min(start + PART, length)) for start in range(0, length, PART)]


def _categorical(levels: NDArray[Any]) -> Any:
    weights = WEIGHTS[levels]
    return _constriction().stream.model.Categorical(weights / weights.sum(), perfect=False)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise ToolkitError(
            f"packed models need constriction, which cannot be imported ({error}); "
            "pip install 'torch-optimization-toolkit[packed]'"
        ) from error
    return constriction
