"""A state dict that torch.save wrote, opened only for what state dicts consist of."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import torch

from toolkit.model_files.safe import unpickler as restricted
from toolkit.model_files.safe.archive import MAGIC, read_pickle
from toolkit.model_files.safe.pickle_scan import MAX_BYTES, Scan, refuse_copies, scan

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
    """A file that names what no state dict consists of."""


def read_state_dict(path: Path) -> Any:
    """What the file holds: tensors and simple values; a `ValueError` or one of torch's own says why not.

    Its tensors lie in the file until they are read, where it is an archive.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        is_archive = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        scans = [scan(read_pickle(file))] if is_archive else _legacy_scans(file)
    for found in scans:
        _refuse(found, size)
    # Mapped, so that memory holds a tensor once; one that is larger than its storage is refused by torch.
    return restricted.load(path, map_location="cpu", mmap=is_archive)


def _legacy_scans(file: IO[bytes]) -> list[Scan]:
    """What was written before torch 1.6: pickles, one after the other, and the data."""
    scans = [scan(file) for _ in range(_LEGACY_PICKLES)]
    if file.tell() > MAX_BYTES:
        raise ValueError(f"its pickles are longer than {MAX_BYTES >> 20} MiB")
    return scans


def _refuse(found: Scan, size: int) -> None:
    unknown = min((name for name in found.names - CALLS if not _is_value(name)), default=None)
    called = min((call.name for call in found.calls if call.name not in CALLS), default=None)
    if unknown or called or found.instances:
        raise MoreThanTensorsError(f"it names '{unknown or called or min(found.instances)}'")
    if found.longest > size:
        raise ValueError(f"it declares a tensor of {found.longest} elements, and the file has {size} bytes")
    for call in found.calls:
        if call.name == "collections.OrderedDict":
            refuse_copies(call)


def _is_value(name: str) -> bool:
    """A dtype, or the name of a kind of storage; neither is called."""
    if name.endswith("Storage"):
        return name.startswith(("torch.", "torch.storage."))
    return name.startswith("torch.") and isinstance(vars(torch).get(name.removeprefix("torch.")), _VALUES)
