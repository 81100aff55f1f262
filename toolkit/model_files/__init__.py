"""A model on disk, as two plain files or one packed file, opened without executing anything in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from toolkit.errors import ArtifactError
from toolkit.model_files.grants import Entry
from toolkit.model_files.packed.file import open_packed
from toolkit.model_files.parts import Parts, named_tensors, put_together, take_apart
from toolkit.model_files.plain import FORMAT, SKELETON, TENSORS, open_plain, pack

PACKED = "model.packed"
NAMED = "the directory of a finished run or of one of its stages, or a packed file"

__all__ = [
    "FORMAT",
    "PACKED",
    "SKELETON",
    "TENSORS",
    "Parts",
    "files_of",
    "load",
    "named_tensors",
    "pack",
    "put_together",
    "refuse_unsavable",
    "take_apart",
]


def load(directory: str | Path, allow: Sequence[Entry] = ()) -> nn.Module:
    """Return the model that a run (or one of its stages) left in `directory`, on the CPU and in eval mode.

    Args:
        directory: a run directory or one of the folders under its `stages`, or the file of a packed model.
        allow: what the network consists of besides torch.nn, torchvision, the toolkit and installed techniques:
            classes; names of them, such as "nets:Net" or "nets.py:Net"; a file, "nets.py"; a package, "transformers";
            or the source in the recipe, "nets.py:make". These are imported, and nothing else that the files name.

    Raises:
        ArtifactError: a file is missing or damaged, was written by a newer version, or asks for a class that is not
            allowed; the error lists what to pass.
        InputError: an entry of `allow` names nothing.
    """
    first, *rest = files_of(Path(directory))
    return open_plain(first, rest[0], allow) if rest else open_packed(first, allow)


def files_of(directory: Path) -> list[Path]:
    """Return the files of a model: skeleton and tensors, or the packed file, which `directory` may also be itself."""
    if directory.is_file():
        return [directory]
    missing = [name for name in (SKELETON, TENSORS) if not (directory / name).is_file()]
    if len(missing) == 2 and (directory / PACKED).is_file():
        return [directory / PACKED]
    if missing:
        raise ArtifactError(_without_model(directory, missing[0]))
    return [directory / SKELETON, directory / TENSORS]


def _without_model(directory: Path, missing: str) -> str:
    if not directory.exists():
        return f"{directory} does not exist; name {NAMED}"
    stages = [path.parent for path in directory.glob(f"stages/*/{SKELETON}")]
    if not stages:
        return f"{directory} contains no model: {missing} is missing; name {NAMED}"
    newest = max(stages, key=lambda stage: (stage / SKELETON).stat().st_mtime)
    return f"{directory} contains no model of a finished run; resume the run, or name a stage, such as {newest}"


def refuse_unsavable(model: nn.Module) -> None:
    """Raise an `ArtifactError` that names what cannot be stored, before training rather than after it."""
    pack(model)  # no list of what deepcopy, pickle and safetensors refuse would be complete
