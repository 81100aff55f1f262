"""The packed file: mark, checksum, skeleton, ties, what each tensor's symbols are coded by, and the symbols."""

from __future__ import annotations

import io
import pickletools
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.errors import ArtifactError
from toolkit.masks import folded
from toolkit.model_files import Parts, named_tensors, put_together, refuse_unsavable, take_apart
from toolkit.model_files.packed import layers, tensors
from toolkit.model_files.packed.streams import DamagedError, Reader, Writer
from toolkit.model_files.safe.archive import read_pickle
from toolkit.model_files.safe.pickle_scan import MAX_BYTES, RefusedError
from toolkit.model_files.safe.skeleton import open_skeleton, pack_skeleton

MAGIC = b"TKP1"  # its last character is the version
CHECKSUM_BYTES = 4
PLAIN, PICKLED = 0, 1  # skeletons
DICTIONARIES = {PLAIN: layers.DICTIONARY, PICKLED: b""}
# What a file may ask for. A weight of which one entry in a hundred is not zero, and one of eight values, takes a ninth
# of a bit for the 32 of each.
FREE_BYTES, MOST_TIMES = 64 << 20, 1024


def pack(model: nn.Module) -> bytes:
    """A model as one file: masks folded in, eval mode; opened again it has the same tensors, bit by bit.

    Args:
        model: stays as it is; an `ArtifactError` says what in it cannot be stored.
    """
    refuse_unsavable(model)
    plain = folded(model).eval()
    described = layers.describe(plain)
    parts, slots = take_apart(plain), [path for path, *_ in named_tensors(plain)]
    writer = Writer()
    _write_skeleton(writer, described, parts.skeleton)
    writer.number(len(parts.ties))
    for path, source in parts.ties.items():
        writer.number(slots.index(path))
        writer.number(slots.index(source))
    written = [tensors.write(writer, parts.tensors[path]) for path in slots if path not in parts.ties]
    for write_symbols in written:
        write_symbols()
    content = writer.content()
    packed = MAGIC + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little") + content
    _refuse_ratio(list(parts.tensors.values()), len(packed), f"{type(model).__name__} cannot be packed")
    return packed


def open_packed(path: str | Path, allow: Sequence[type] = ()) -> nn.Module:
    """The model in a file that `pack` made, on the CPU and in eval mode; nothing in the file is executed.

    Args:
        path: of the file.
        allow: classes of your own that the network consists of.

    Raises:
        ArtifactError: the file is damaged, asks for a class that is not allowed, or for more memory than any model of
            its length takes.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return put_together(_parts(content, allow, str(path)), allow, where=str(path)).eval()
    except (DamagedError, RefusedError) as error:
        raise ArtifactError(f"{path} is damaged or not a packed model: {error}") from error


def _parts(content: bytes, allow: Sequence[type], where: str) -> Parts:
    start = len(MAGIC) + CHECKSUM_BYTES
    if content[: len(MAGIC)] != MAGIC:
        raise DamagedError("it does not begin like one of this version")
    if zlib.crc32(content[start:]).to_bytes(CHECKSUM_BYTES, "little") != content[len(MAGIC) : start]:
        raise DamagedError("its checksum is another one, so it is cut short or was changed")
    reader = Reader(content[start:])
    skeleton = _read_skeleton(reader)
    slots = [(path, meta) for path, _, _, meta in named_tensors(open_skeleton(skeleton, allow, (), where))]
    ties = _read_ties(reader, [path for path, _ in slots])
    metas = {path: meta for path, meta in slots if path not in ties}
    _refuse_ratio(list(metas.values()), len(content), "its tensors")
    readers = {path: tensors.read(reader, meta) for path, meta in metas.items()}
    reader.begin_symbols()
    try:
        found = {path: read_symbols() for path, read_symbols in readers.items()}
    except (AssertionError, ValueError) as error:  # the coder of a file that was made up
        raise DamagedError(str(error)) from error
    return Parts(skeleton, found, ties)


def _write_skeleton(writer: Writer, described: bytes | None, archive: bytes) -> None:
    kind, content = (PLAIN, described) if described is not None else (PICKLED, _bare_pickle(archive))
    deflating = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARIES[kind])
    compressed = deflating.compress(content) + deflating.flush()
    writer.number(kind)
    writer.number(len(compressed))
    writer.raw(compressed)


def _read_skeleton(reader: Reader) -> bytes:
    kind = reader.number()
    if kind not in DICTIONARIES:
        raise DamagedError(f"its skeleton is of the kind {kind}, which is none")
    compressed = reader.raw(reader.number())
    inflating = zlib.decompressobj(-15, zdict=DICTIONARIES[kind])
    try:
        content = inflating.decompress(compressed, MAX_BYTES)
    except zlib.error as error:
        raise DamagedError(f"its skeleton is not compressed as it should be: {error}") from error
    if not inflating.eof or inflating.unused_data:
        raise DamagedError(f"its skeleton is cut short, or longer than {MAX_BYTES >> 20} MiB")
    return pack_skeleton(layers.build(content)) if kind == PLAIN else _archive(content)


def _bare_pickle(archive: bytes) -> bytes:
    """What is in the archive that torch writes, without the places of values that nothing comes back to."""
    return pickletools.optimize(read_pickle(io.BytesIO(archive)))


def _archive(pickled: bytes) -> bytes:
    file = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(file)
    writer.write_record("data.pkl", pickled, len(pickled))
    writer.write_end_of_file()
    return file.getvalue()


def _read_ties(reader: Reader, slots: Sequence[str]) -> dict[str, str]:
    count = reader.number()
    pairs = [(reader.number(), reader.number()) for _ in range(min(count, len(slots) + 1))]
    ties = dict(pairs)
    if len(ties) != count or any(place >= len(slots) for pair in pairs for place in pair):
        raise DamagedError("it ties tensors that it does not have")
    if ties.keys() & set(ties.values()):
        raise DamagedError("it ties tensors in a circle or a chain")
    return {slots[path]: slots[source] for path, source in ties.items()}


def _refuse_ratio(found: Sequence[Tensor], length: int, what: str) -> None:
    size = sum(tensor.numel() * tensor.itemsize for tensor in found)
    if size > FREE_BYTES + MOST_TIMES * length:
        raise ArtifactError(f"{what} take {size} bytes, too many to be unpacked from a file of {length}")
