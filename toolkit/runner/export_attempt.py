"""One export, from the model to the row of its file."""

from __future__ import annotations

import inspect
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError, ToolkitError
from toolkit.exports.files import ExportedModel, export_steps, partial_folder
from toolkit.exports.judge import Judge
from toolkit.exports.process import OpenedFile
from toolkit.exports.time_file import TimedFile
from toolkit.hooks.steps import Work
from toolkit.metrics import Answers, BatchAnswers, answers_to_batch, joined_answers, quality
from toolkit.recipe.read import PluginUse
from toolkit.rows import Row
from toolkit.runner.export_files import FloatFiles, opened
from toolkit.runner.spoilt_times import Times
from toolkit.runner.technique_numbers import named_measures_of_files
from toolkit.tasks import Batch


@dataclass(frozen=True)
class Request:
    """A model to be exported: `name` of its row, the runtime with its params, and the folder of the files."""

    name: str
    use: PluginUse
    model: nn.Module
    folder: Path

    @property
    def goes_on_in_background(self) -> bool:
        """Whether the runtime works on while something else is done."""
        return inspect.isgeneratorfunction(getattr(self.use.plugin.module, "export", None))


class Attempt:
    """One export; a context manager, which removes what has not become a row.

    Attributes:
        error: why there is no row; nothing more is done then.
        timed_file: the file and the baseline's, opened.
    """

    timed_file: TimedFile

    def __init__(self, request: Request, data: Data, floats: FloatFiles, blocked: Sequence[str]) -> None:
        self.request, self._data, self._floats, self._blocked = request, data, floats, blocked
        self.error: ToolkitError | None = None
        self._processes, self._values, self._duration_s = ExitStack(), dict[str, Any](), 0.0
        self._work: Work[ExportedModel] | None = None
        self._makes_parent = not request.folder.parent.exists()

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._work is not None:
            self._work.close()
        shutil.rmtree(partial_folder(self.request.folder), ignore_errors=True)
        if self._makes_parent:
            with suppress(OSError):  # it never appeared, or has the files of other exports
                self.request.folder.parent.rmdir()

    def close(self) -> None:
        """End the process of the files."""
        self._processes.close()

    def do(self, work: Callable[[], None]) -> None:
        """Do a part of the work and keep its error, unless an earlier part has failed."""
        if self.error is not None:
            return
        started = time.perf_counter()
        try:
            work()
        except ToolkitError as error:
            self.error = error
            self.close()
        self._duration_s += time.perf_counter() - started

    def begin(self) -> None:
        """Begin to write the files, and those of the baseline."""
        use, model = self.request.use, self.request.model
        self._work = Work(export_steps(use.plugin, use.params, model, self._data, self.request.folder))
        if self._is_baseline:
            self._floats.add(use, self._work)
        else:
            self._floats.begin(use)

    def verify(self, judge: Judge, baseline_answers: Callable[[], Answers]) -> None:
        """Open the files, and compare them with the model and the baseline."""
        file = self._processes.enter_context(opened(self._exported, self._blocked))
        parts: list[BatchAnswers] = []

        def keep(outputs: Any, batch: Batch) -> None:
            parts.append(answers_to_batch(outputs, self._data, batch))

        comparison = judge.compare(file, keep)
        if not comparison.is_close:
            raise TechniqueError(f"{self.request.use.plugin}: the exported file does not match the model, {comparison}")
        before = baseline_answers()
        self._values |= {"size_bytes": self._exported.size_bytes, **quality(joined_answers(parts), before)}
        self._values |= {"output_error": comparison.output_error, "file_agreement": comparison.agreement}
        self.timed_file = TimedFile(file, self._float_file(file))

    def _float_file(self, file: OpenedFile) -> OpenedFile | None:
        """Return the baseline's file, opened in the same process; None if the file is the baseline's."""
        if self._is_baseline:
            return None
        return opened(self._floats.take(self.request.use), self._blocked, beside=file)

    def add_times(self, times: Times, duration_s: float = 0.0) -> None:
        """Add the times of the file, and the seconds of the work on several files that fall to it."""
        self._values |= times
        self._duration_s += duration_s

    def finish(self) -> None:
        """Let the runtime measure the files, and put them where they belong."""
        self._values |= named_measures_of_files(self.request.use, self._exported.folder)
        self._exported.moved_to(self.request.folder)

    @property
    def outcome(self) -> Row | ToolkitError:
        """The row, or why there is none."""
        values = {**self._values, "duration_s": self._duration_s}
        return self.error or Row(self.request.name, values, runtime=self.request.use.plugin.name)

    @property
    def _exported(self) -> ExportedModel:
        assert self._work is not None
        return self._work.result()

    @property
    def _is_baseline(self) -> bool:
        return self._floats.is_baseline(self.request.model)
