"""Exported folders of earlier runs, opened only as far as they can be trusted."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from toolkit.errors import InputError
from toolkit.exports.files import ExportedModel
from toolkit.exports.manifest import check_files, read_manifest
from toolkit.exports.portable import portable_source
from toolkit.hooks.loading import load


def stored_export(folder: Path, trust: bool = False) -> ExportedModel:
    """Return the exported model in a folder; open nothing, and run nothing of what the folder contains.

    Args:
        folder: as an export left it.
        trust: whether its files may run native code.

    Raises:
        InputError: the folder is no exported model, is damaged or of a newer format, or its files can hold code.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest.files)
    runtime = load(manifest.runtime, "runtime")
    if not trust and not runtime.implements("check"):
        raise InputError(
            f"{folder}: files of {runtime.name} can hold native code; pass --trust if you know their author"
        )
    try:
        params = runtime.params_class.model_validate(manifest.params).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(f"{folder}: this version of {runtime} does not have these params; export it again") from error
    # The installed plugin's script, not the folder's: whoever wrote the folder could have written any.
    return ExportedModel(folder, portable_source(runtime.open_source, str(runtime)), params, runtime, manifest.files)
