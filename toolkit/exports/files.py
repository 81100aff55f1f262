"""The folder of an exported model: the runtime's files, the script that opens them, and a page that says how."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError, ToolkitError
from toolkit.exports.archives import check_archives
from toolkit.exports.free_sizes import free_output_sizes, free_sizes
from toolkit.exports.manifest import MANIFEST, check_files, write_manifest
from toolkit.exports.portable import portable_source
from toolkit.exports.process import OpenedFile
from toolkit.exports.readme import Example, readme
from toolkit.hooks.loading import Plugin
from toolkit.hooks.steps import Work, steps
from toolkit.masks import folded
from toolkit.params import Params

SCRIPT, README = "run.py", "README.md"
PARTIAL_SUFFIX = ".part"  # as of all files that are not complete; what begins a run removes them
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@dataclass(frozen=True)
class ExportedModel:
    """A model in the files of a runtime.

    `folder` contains the files. `source` is the script that opens them, `params` are the settings of the runtime, and
    `files` the checksums of all files but the manifest.
    """

    folder: Path
    source: str
    params: Mapping[str, Any]
    plugin: Plugin
    files: Mapping[str, str]

    @property
    def runtime(self) -> str:
        """Name of the runtime."""
        return self.plugin.name

    def opened(self, threads: int, blocked: Collection[str] = (), beside: OpenedFile | None = None) -> OpenedFile:
        """Examine the files, and open them in a process of their own.

        Args:
            threads: for computing one call.
            blocked: packages that cannot be imported there, besides the toolkit.
            beside: a file whose process opens this one, too; what a runtime imports takes seconds of each process.

        Raises:
            InputError: a file has changed, or is not safe to open.
            TechniqueError: the runtime does not open the files.
        """
        check_files(self.folder, self.files)
        check_archives(self.folder)
        if self.plugin.implements("check"):
            self.plugin.call("check", folder=self.folder)
        what = f"the file of {self.runtime}"
        return OpenedFile(self.folder, self.source, self.params, threads, blocked, what, self.files, beside)

    def moved_to(self, folder: Path) -> ExportedModel:
        """Rename the folder, and replace an older one of this name."""
        old = folder.with_name(f".{folder.name}.old{PARTIAL_SUFFIX}")
        try:
            with _disk_errors(folder):
                shutil.rmtree(old, ignore_errors=True)
                if folder.exists():
                    folder.rename(old)  # deleting takes longer, and might be interrupted
                self.folder.rename(folder)
        finally:
            for path in (self.folder, old):
                shutil.rmtree(path, ignore_errors=True)
        return replace(self, folder=folder)

    @property
    def size_bytes(self) -> int:
        """The bytes that are needed to run the model: those of the runtime's files."""
        paths = (
            path for path in self.folder.rglob("*") if path.is_file() and path.name not in (SCRIPT, README, MANIFEST)
        )
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
        ToolkitError: the files cannot be written.
    """
    return Work(export_steps(runtime, params, model, data, folder)).result().moved_to(folder)


def export_steps(
    runtime: Plugin, params: Params, model: nn.Module, data: Data, folder: Path
) -> Generator[None, None, ExportedModel]:
    """Do what `export_model` does, yield wherever the runtime lets something else be done, and return the files.

    They are in `partial_folder(folder)`: move them to `folder` if they are good. The folder is removed if the steps
    fail, or if they are closed before the end.
    """
    source = portable_source(runtime.open_source, str(runtime))
    deployed = folded(model).eval().cpu()
    data = data.on_cpu()
    batch, plain = data.example(2), params.model_dump(mode="json")
    free = free_sizes(data, batch)
    with _written_whole(folder) as partial:
        note = yield from steps(
            runtime, "export", model=deployed, params=params, example=batch.inputs, free_sizes=free, folder=partial
        )
        if not any(partial.iterdir()):
            raise TechniqueError(f"{runtime} wrote no file in export")
        files = sorted(path.name for path in partial.iterdir())
        (partial / SCRIPT).write_text(source, encoding="utf-8")
        outputs, free_outputs = _outputs(deployed, data), free_output_sizes(deployed, data, batch)
        example = Example(batch.inputs, outputs, data.preparation, free, free_outputs)
        text = readme(runtime.name, files, plain, example, note)
        (partial / README).write_text(text, encoding="utf-8")
        manifest = write_manifest(partial, runtime.name, plain)
    return ExportedModel(partial, source, plain, runtime, manifest.files)


def partial_folder(folder: Path) -> Path:
    """Return where the files of a folder are until they are complete; what a killed process left there is removed."""
    return folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")


@contextmanager
def _written_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for what becomes `folder`, and remove it unless all goes well inside."""
    partial = partial_folder(folder)
    try:
        with _disk_errors(folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Report a full disk, and a folder that cannot be written, in a sentence."""
    try:
        yield
    except (OSError, TechniqueError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            raise ToolkitError(f"cannot write {folder}: {os.strerror(cause.errno)}") from error
        raise


@torch.no_grad()
def _outputs(model: nn.Module, data: Data) -> Any:
    return data.task.forward(model, data.example(2))
