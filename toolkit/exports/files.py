"""The folder of an exported model: the runtime's files, the script that opens them, and a page that says how."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.exports.portable import portable_source
from toolkit.exports.readme import readme
from toolkit.hooks.loading import Plugin
from toolkit.masks import folded
from toolkit.params import Params

SCRIPT, README = "run.py", "README.md"


@dataclass(frozen=True)
class ExportedModel:
    """A model in the files of a runtime.

    `folder` has the files, `source` is the script that opens them, `params` are the runtime's settings.
    """

    folder: Path
    source: str
    params: Mapping[str, Any]
    runtime: str

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def size_bytes(self) -> int:
        """The bytes that are needed to run the model: those of the runtime's files."""
        paths = (path for path in self.folder.rglob("*") if path.is_file() and path.name not in (SCRIPT, README))
        return sum(path.stat().st_size for path in paths)


def export_model(runtime: Plugin, params: Params, model: nn.Module, data: Data, folder: Path) -> ExportedModel:
    """Write a model in the format of a runtime; the folder appears whole or not at all.

    Args:
        runtime: a plugin with the hooks `export` and `open`.
        params: its settings.
        model: as a stage left it; not changed.
        data: two of its samples show the inputs and outputs.
        folder: replaced if it exists.

    Raises:
        TechniqueError: the runtime rejects the model, or fails.
    """
    source = portable_source(runtime.module.open, str(runtime))
    deployed = folded(model).eval().cpu()
    inputs, plain = data.example(2).inputs, params.model_dump(mode="json")
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        runtime.call("export", model=deployed, params=params, example=inputs, folder=temporary)
        if not any(temporary.iterdir()):
            raise TechniqueError(f"{runtime} wrote no file in export")
        files = sorted(path.name for path in temporary.iterdir())
        (temporary / SCRIPT).write_text(source, encoding="utf-8")
        text = readme(runtime.name, files, plain, inputs, _outputs(deployed, data))
        (temporary / README).write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExportedModel(folder, source, plain, runtime.name)


@torch.no_grad()
def _outputs(model: nn.Module, data: Data) -> Any:
    return data.task.forward(model, data.example(2))
