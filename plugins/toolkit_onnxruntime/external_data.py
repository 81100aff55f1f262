"""Where an ONNX file says that its tensors are stored: a hostile one names any file of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from toolkit import TechniqueError


def check_external_data(file: Path) -> None:
    """Refuse a file whose tensors lie outside its folder.

    Raises:
        TechniqueError: a tensor lies elsewhere, or the file is not ONNX.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise TechniqueError(f"{file.name} is not an ONNX file; export the model again") from error
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            if not _is_inside(file.parent, location):
                where = f"reads the tensor '{tensor.name}' from '{location}'"
                raise TechniqueError(f"{file.name} {where}, which is no file of its folder; do not open it")


def _is_inside(folder: Path, location: str) -> bool:
    paths = PurePosixPath(location), PureWindowsPath(location)
    if any(path.anchor or ".." in path.parts for path in paths):
        return False
    path = folder / location
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _tensors(message: Any) -> Iterator[Any]:
    """Return all tensors, those of subgraphs, functions and attributes included."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(item)
