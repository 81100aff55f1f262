"""The list of an exported folder's files with their checksums, so that no changed file is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from toolkit.errors import InputError, newer_format

MANIFEST = "manifest.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20


class Manifest(BaseModel):
    """What an exported folder contains: `files` are checksums (SHA-256) by path, `params` the runtime's settings."""

    format: int
    toolkit: str
    runtime: str
    params: dict[str, Any]
    files: dict[str, str]


def write_manifest(folder: Path, runtime: str, params: Mapping[str, Any]) -> Manifest:
    """Write the manifest of a folder's files; return it."""
    files = {name: _checksum(path) for name, path in _files(folder).items()}
    made_by = version("torch-optimization-toolkit")
    manifest = Manifest(format=FORMAT, toolkit=made_by, runtime=runtime, params=dict(params), files=files)
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(), indent=1) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an exported folder.

    Raises:
        InputError: the manifest is missing, damaged or of a newer format.
    """
    path = folder / MANIFEST
    try:
        is_regular = path.is_file() or not path.exists()  # not a pipe or an endless device
        if not is_regular or path.stat().st_size > MAX_MANIFEST_BYTES:
            raise InputError(f"{path} is not a manifest of the toolkit; export the model again")
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
            raise InputError(f"{path} {newer_format(content['format'], FORMAT)}")
        return Manifest.model_validate(content)
    except FileNotFoundError:
        raise InputError(f"{folder} is not an exported model: it has no {MANIFEST}") from None
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        raise InputError(f"{path} is damaged; export the model again") from error


def check_files(folder: Path, checksums: Mapping[str, str]) -> None:
    """Compare the files of a folder with their checksums.

    Raises:
        InputError: a file is missing, was added or has changed.
    """
    found = _files(folder)
    for name in sorted({*found, *checksums}):
        if name not in found:
            raise InputError(f"{folder} lacks its file {name}; export the model again")
        if name not in checksums:
            raise InputError(f"{folder / name} is not in the manifest; remove it or export the model again")
        is_regular = found[name].is_file() and not found[name].is_symlink()
        if not is_regular or _checksum(found[name]) != checksums[name]:
            raise InputError(f"{folder / name} has changed since it was exported; export the model again")


def _files(folder: Path) -> dict[str, Path]:
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths if path != folder / MANIFEST}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
