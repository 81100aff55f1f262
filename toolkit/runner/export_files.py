"""Files of a runtime while they are judged: opened in clean processes, next to the baseline's files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import InputError, TechniqueError
from toolkit.exports.files import ExportedModel, export_steps
from toolkit.exports.process import OpenedFile
from toolkit.hooks.loading import installed
from toolkit.hooks.steps import Work
from toolkit.recipe.read import PluginUse


def opened(exported: ExportedModel, blocked: Sequence[str], beside: OpenedFile | None = None) -> OpenedFile:
    """Open files in a process that can import neither plugins nor the packages `blocked`.

    Raises:
        TechniqueError: the files are damaged, or the runtime does not open them.
    """
    plugins = [plugin.entry_point.module.partition(".")[0] for plugin in installed()]
    try:
        return exported.opened(torch.get_num_threads(), [*plugins, *blocked], beside)
    except InputError as error:
        raise TechniqueError(f"{exported.plugin}: {error}") from error


class FloatFiles:
    """The files of the baseline, written once for each runtime and its params.

    Args:
        baseline: in eval mode.
        data: two of its samples show the inputs and outputs.
        stack: its end removes the files.
    """

    def __init__(self, baseline: nn.Module, data: Data, stack: ExitStack) -> None:
        self._baseline, self._data, self._stack = baseline, data, stack
        self._works: dict[tuple[str, str], Work[ExportedModel]] = {}

    def is_baseline(self, model: nn.Module) -> bool:
        """Return whether files of a model are those of the baseline."""
        return model is self._baseline

    def add(self, use: PluginUse, work: Work[ExportedModel]) -> None:
        """Take files that are written anyway."""
        self._works[_key(use)] = work

    def begin(self, use: PluginUse) -> None:
        """Begin to write the files for a runtime, unless they are there."""
        if _key(use) not in self._works:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / "baseline"
            work = Work(export_steps(use.plugin, use.params, self._baseline, self._data, folder))
            self._stack.callback(work.close)
            self._works[_key(use)] = work

    def take(self, use: PluginUse) -> ExportedModel:
        """Return the files for a runtime, when they are complete."""
        return self._works[_key(use)].result()


def _key(use: PluginUse) -> tuple[str, str]:
    return use.plugin.name, use.params.model_dump_json()
