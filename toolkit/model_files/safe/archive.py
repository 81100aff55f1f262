"""The archive around the pickle that torch.save writes: written, and read without trust."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import IO

import torch

from toolkit.model_files.safe.pickle_scan import MAX_BYTES, RefusedError

MAGIC = b"PK\x03\x04"
_END, _END_BYTES = b"PK\x05\x06", 22
_LOCATOR, _LOCATOR_BYTES, _END64_BYTES = b"PK\x06\x07", 20, 56


def write_pickle(pickled: bytes) -> bytes:
    """Return an archive that `torch.load` opens, with this pickle alone."""
    file = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(file)
    writer.write_record("data.pkl", pickled, len(pickled))
    writer.write_end_of_file()
    return file.getvalue()


def read_pickle(file: IO[bytes]) -> bytes:
    """Return the pickle in an archive; a `RefusedError` says what torch.save would not have written."""
    size = file.seek(0, 2)
    _check_ends(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            _check_entries(archive.infolist(), size)
        file.seek(0)
        # With torch's own reader: another reader could see another pickle in a forged archive.
        reader = torch._C.PyTorchFileReader(file)
        if reader.get_record_size("data.pkl") > MAX_BYTES:
            raise RefusedError(f"its pickle is longer than {MAX_BYTES >> 20} MiB")
        pickled: bytes = reader.get_record("data.pkl")
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, UnicodeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RefusedError(f"it is not an archive of torch.save: {reason}") from error
    return pickled


def _check_ends(file: IO[bytes], size: int) -> None:
    """Refuse an archive in which different readers would look for the list of entries in different places."""
    file.seek(0)
    begin = file.read(len(MAGIC))
    file.seek(max(0, size - _END_BYTES))
    end = file.read(_END_BYTES)
    file.seek(0)
    if begin != MAGIC or not end.startswith(_END) or len(end) < _END_BYTES:
        raise RefusedError("it is not an archive of torch.save, or only a part of one")
    if _directory_bytes(file, end) > MAX_BYTES:
        raise RefusedError("it has more entries than torch.save writes, or longer names")


def _directory_bytes(file: IO[bytes], end: bytes) -> int:
    """Return the length of the list of entries that the archive states, in its 4 GB (ZIP64) record if it has one."""
    length = _END64_BYTES + _LOCATOR_BYTES
    file.seek(-_END_BYTES - length, 2) if file.seek(0, 2) >= _END_BYTES + length else file.seek(0)
    before = file.read(length)
    file.seek(0)
    if before[_END64_BYTES:].startswith(_LOCATOR):
        return int.from_bytes(before[40:48], "little")
    return int.from_bytes(end[12:16], "little")


def _check_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    if sum(entry.file_size for entry in entries) > size:
        raise RefusedError("its entries are longer than the file: it is compressed, or was changed")
    if min((entry.header_offset for entry in entries), default=1) != 0:
        raise RefusedError("its first entry does not begin where the file does")
    names = [entry.filename for entry in entries]
    if len({name.lower() for name in names}) != len(names):
        raise RefusedError("two of its entries have the same name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise RefusedError(f"its entry '{entry.filename}' is compressed, which torch.save never does")
        parts = entry.orig_filename.replace("\\", "/").split("/")
        if not entry.orig_filename.isprintable() or "" in parts or ".." in parts:
            raise RefusedError(f"torch.save does not write an entry named {entry.orig_filename!r}")
