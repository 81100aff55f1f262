"""The packed file: mark, checksum, skeleton, ties, the code of each tensor's symbols, and the symbols."""

from __future__ import annotations

import io
import json
import pickletools
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from toolkit.errors import ArtifactError, newer_format
from toolkit.masks import folded
from toolkit.model_files import plain
from toolkit.model_files.borrowing import Borrowed
from toolkit.model_files.grants import Entry
from toolkit.model_files.packed import layers, tensors
from toolkit.model_files.packed.streams import DamagedError, Reader, Writer
from toolkit.model_files.parts import Parts, allowed, completion, named_tensors, put_together, take_apart
from toolkit.model_files.safe.archive import read_pickle, write_pickle
from toolkit.model_files.safe.pickle_scan import MAX_BYTES, RefusedError
from toolkit.model_files.safe.skeleton import open_skeleton, pack_skeleton

NAME, FORMAT = b"TKP", 2
SELF_CONTAINED = 1  # the format of a model that borrows nothing, which older versions can read
MAGIC = NAME + b"%d" % FORMAT
CHECKSUM_BYTES = 4
PLAIN, PICKLED, BORROWING = 0, 1, 2  # kinds of skeletons
DICTIONARIES = {PLAIN: layers.DICTIONARY, PICKLED: b"", BORROWING: b""}
# How much memory a file may ask for. A weight with one entry in a hundred that is not zero, each of eight values, takes
# a ninth of a bit for the 32 bits of an entry: a ratio of 288.
FREE_BYTES, MAX_RATIO = 64 << 20, 1024


def pack(model: nn.Module) -> bytes:
    """Return a model as one file, with masks folded in and in eval mode; tensors come back bit for bit.

    Args:
        model: is left unchanged; an `ArtifactError` says what in it cannot be stored.
    """
    plain.pack(model)  # raises for what cannot be stored
    packable = folded(model).eval()
    description = layers.describe(packable)
    parts, slots = take_apart(packable), [path for path, *_ in named_tensors(packable)]
    writer = Writer()
    _write_skeleton(writer, description, parts)
    writer.number(len(parts.ties))
    for path, source in parts.ties.items():
        writer.number(slots.index(path))
        writer.number(slots.index(source))
    started = [tensors.write(writer, parts.tensors[path]) for path in slots if path not in parts.ties]
    for write_symbols in started:
        write_symbols()
    content = writer.content()
    file_format = SELF_CONTAINED if parts.borrowed is None else FORMAT
    packed = NAME + b"%d" % file_format + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little") + content
    _check_ratio(list(parts.tensors.values()), len(packed), f"{type(model).__name__} cannot be packed: its tensors")
    return packed


def open_packed(path: str | Path, allow: Sequence[Entry] = ()) -> nn.Module:
    """Return the model in a file of `pack`, on the CPU and in eval mode; execute nothing in the file.

    Args:
        path: of the file.
        allow: what the network consists of, as for `toolkit.load`.

    Raises:
        ArtifactError: the file is damaged, was written by a newer version, asks for a class that is not allowed, or for
            more memory than any model of its length takes.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    file_format = _format(content)
    if file_format is not None and file_format > FORMAT:
        raise ArtifactError(f"{path} {newer_format(file_format, FORMAT)}")
    try:
        return put_together(_parts(content, allow, str(path)), allow, where=str(path)).eval()
    except (DamagedError, RefusedError) as error:
        raise ArtifactError(f"{path} is damaged or not a packed model: {error}") from error


def _format(content: bytes) -> int | None:
    """Return the format that a packed file claims; None for any other file."""
    digit = content[len(NAME) : len(NAME) + 1]
    return int(digit) if content.startswith(NAME) and digit.isdigit() else None


def _parts(content: bytes, allow: Sequence[Entry], where: str) -> Parts:
    start = len(MAGIC) + CHECKSUM_BYTES
    if _format(content) not in (SELF_CONTAINED, FORMAT):
        raise DamagedError("it does not begin with the mark of a packed model")
    if zlib.crc32(content[start:]).to_bytes(CHECKSUM_BYTES, "little") != content[len(MAGIC) : start]:
        raise DamagedError("its checksum does not match: it was truncated or changed")
    reader = Reader(content[start:])
    skeleton, borrowed = _read_skeleton(reader)
    completion(skeleton, borrowed, allow, where)  # names all that has to be allowed, before the skeleton is opened
    slots = [(path, meta) for path, _, _, meta in named_tensors(open_skeleton(skeleton, allowed(allow), where))]
    ties = _read_ties(reader, [path for path, _ in slots])
    metas = {path: meta for path, meta in slots if path not in ties}
    _check_ratio(list(metas.values()), len(content), f"{where} is not opened: its tensors")
    started = {path: tensors.read(reader, meta) for path, meta in metas.items()}
    reader.begin_symbols()
    try:
        read = {path: read_symbols() for path, read_symbols in started.items()}
    except (AssertionError, ValueError) as error:  # from the coder, if the file is forged
        raise DamagedError(str(error)) from error
    return Parts(skeleton, read, ties, borrowed)


def _write_skeleton(writer: Writer, description: bytes | None, parts: Parts) -> None:
    if parts.borrowed is not None:
        kind, content = BORROWING, json.dumps(asdict(parts.borrowed)).encode() + b"\n" + _bare_pickle(parts.skeleton)
    elif description is not None:
        kind, content = PLAIN, description
    else:
        kind, content = PICKLED, _bare_pickle(parts.skeleton)
    deflating = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARIES[kind])
    compressed = deflating.compress(content) + deflating.flush()
    writer.number(kind)
    writer.number(len(compressed))
    writer.raw(compressed)


def _read_skeleton(reader: Reader) -> tuple[bytes, Borrowed | None]:
    kind = reader.number()
    if kind not in DICTIONARIES:
        raise DamagedError(f"its skeleton is of the unknown kind {kind}")
    compressed = reader.raw(reader.number())
    inflating = zlib.decompressobj(-15, zdict=DICTIONARIES[kind])
    try:
        content = inflating.decompress(compressed, MAX_BYTES)
    except zlib.error as error:
        raise DamagedError(f"its skeleton cannot be decompressed: {error}") from error
    if not inflating.eof or inflating.unused_data:
        raise DamagedError(f"its skeleton is truncated, or longer than {MAX_BYTES >> 20} MiB")
    if kind == PLAIN:
        return pack_skeleton(layers.build(content)), None
    if kind == PICKLED:
        return write_pickle(content), None
    described, _, pickled = content.partition(b"\n")
    try:
        return write_pickle(pickled), Borrowed.of(json.loads(described))
    except (ValueError, RecursionError, ArtifactError) as error:
        raise DamagedError("its source is described in an unknown form") from error


def _bare_pickle(archive: bytes) -> bytes:
    """Return the pickle in torch's archive, without memo entries that nothing refers to."""
    return pickletools.optimize(read_pickle(io.BytesIO(archive)))


def _read_ties(reader: Reader, slots: Sequence[str]) -> dict[str, str]:
    count = reader.number()
    pairs = [(reader.number(), reader.number()) for _ in range(min(count, len(slots) + 1))]
    ties = dict(pairs)
    if len(ties) != count or any(place >= len(slots) for pair in pairs for place in pair):
        raise DamagedError("it ties tensors that it does not have")
    if ties.keys() & set(ties.values()):
        raise DamagedError("it ties tensors in a circle or a chain")
    return {slots[path]: slots[source] for path, source in ties.items()}


def _check_ratio(unpacked: Sequence[Tensor], length: int, what: str) -> None:
    size = sum(tensor.numel() * tensor.itemsize for tensor in unpacked)
    if size > FREE_BYTES + MAX_RATIO * length:
        raise ArtifactError(f"{what} take {size} bytes, too many to be unpacked from a file of {length} bytes")
