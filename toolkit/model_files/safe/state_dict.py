"""A state dict that torch.save wrote, opened only if it has nothing but what state dicts consist of."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import torch

from toolkit.model_files.safe import unpickler
from toolkit.model_files.safe.archive import MAGIC, read_pickle
from toolkit.model_files.safe.pickle_scan import MAX_BYTES, Scan, check_copies, scan

CALLS = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
}
_VALUES = (torch.dtype, torch.qscheme, torch.layout)
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, its storages' names


class MoreThanTensorsError(ValueError):
    """A file names a class or function that no state dict consists of."""


def read_state_dict(path: Path) -> Any:
    """Return the tensors and simple values in a file; a `ValueError` or torch's error says why it is not opened.

    The tensors of an archive stay in the file until they are read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        is_archive = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        scans = [scan(read_pickle(file))] if is_archive else _legacy_scans(file)
    for contents in scans:
        _check(contents, size)
    # Mapped, so that each tensor is in memory only once. Torch itself refuses a tensor that is larger than its storage.
    return unpickler.load(path, map_location="cpu", mmap=is_archive)


def _legacy_scans(file: IO[bytes]) -> list[Scan]:
    """Return the pickles in a file from before torch 1.6, where they lie one after the other, before the data."""
    scans = [scan(file) for _ in range(_LEGACY_PICKLES)]
    if file.tell() > MAX_BYTES:
        raise ValueError(f"its pickles are longer than {MAX_BYTES >> 20} MiB")
    return scans


def _check(contents: Scan, size: int) -> None:
    unknown = min((name for name in contents.names - CALLS if not _is_value(name)), default=None)
    called = min((call.name for call in contents.calls if call.name not in CALLS), default=None)
    if unknown or called or contents.instances:
        raise MoreThanTensorsError(f"it names '{unknown or called or min(contents.instances)}'")
    if contents.largest_storage > size:
        raise ValueError(f"it declares a tensor of {contents.largest_storage} elements, but has only {size} bytes")
    for call in contents.calls:
        if call.name == "collections.OrderedDict":
            check_copies(call)


def _is_value(name: str) -> bool:
    """Return whether the name is a dtype's or a storage class's, neither of which is called."""
    if name.endswith("Storage"):
        return name.startswith(("torch.", "torch.storage."))
    return name.startswith("torch.") and isinstance(vars(torch).get(name.removeprefix("torch.")), _VALUES)
