"""Archives in an exported folder, examined before a runtime unpacks them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

from toolkit.errors import InputError

MAX_EXPANSION = 200  # unpacked bytes for each byte of the archive
BLOCK_BYTES = 1 << 20
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, UnicodeError, OSError)


def check_archives(folder: Path) -> None:
    """Refuse archives that would fill memory or disk: an entry counts with its declared and with its real length.

    Raises:
        InputError: an archive is damaged, or much longer than its file.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and zipfile.is_zipfile(path):
            try:
                _check(path)
            except DAMAGED as error:
                raise InputError(f"{path} is a damaged archive ({error}); export the model again") from error


def _check(path: Path) -> None:
    limit = MAX_EXPANSION * path.stat().st_size
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > limit:
            raise InputError(f"{path} would unpack to more than {MAX_EXPANSION} times its size; do not open it")
        for entry in entries:
            if _size(file, entry) != entry.file_size:
                raise InputError(f"{path}: its entry '{entry.filename}' is longer than declared; do not open it")


def _size(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Return the real length of an entry; stop soon after the declared one."""
    if entry.compress_type == zipfile.ZIP_STORED:
        return entry.compress_size
    if entry.compress_type != zipfile.ZIP_DEFLATED:
        raise NotImplementedError(f"compression method {entry.compress_type}")
    file.seek(entry.header_offset + 26)
    file.seek(sum(struct.unpack("<HH", file.read(4))), 1)  # past the name and the extra field
    content, size, unpacker = file.read(entry.compress_size), 0, zlib.decompressobj(-zlib.MAX_WBITS)
    while content and not unpacker.eof and size <= entry.file_size:
        size += len(unpacker.decompress(content, BLOCK_BYTES))
        content = unpacker.unconsumed_tail
    return size
