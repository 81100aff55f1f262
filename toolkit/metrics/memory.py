"""Peak memory of one inference, measured in a separate process."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from toolkit.importing import imported_files
from toolkit.metrics.support.memory_worker import receive, send
from toolkit.metrics.support.metric import COUNT, Comparison, Metric, Quantity, Subject
from toolkit.model_files.origins import is_unnamed, origin_of
from toolkit.number_text import bytes_text
from toolkit.tasks import Batch, Task

log = logging.getLogger("toolkit")


class MemoryMeter:
    """A process that loads saved models and measures how much it grows; a context manager, which ends it.

    The process starts at once and imports torch in the background. If it cannot measure (on a system other than Linux,
    or with a task that cannot be pickled), there is no number, and the log has the reason.
    """

    def __init__(self) -> None:
        self._worker = _start() if sys.platform == "linux" else None

    def __enter__(self) -> MemoryMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None

    def peak_bytes(self, folder: Path, model: nn.Module, task: Task, batch: Batch) -> int | None:
        """Return the bytes by which a process grows at most while it loads a model and runs a batch; None if unknown.

        They include the weights, the allocations of the inference, and the buffers of libraries, but not torch itself.

        Args:
            folder: folder of the saved model.
            model: the same model; the process may open its classes.
            task: runs the model on the batch.
            batch: on the CPU; other devices are not measured.
        """
        if self._worker is None or batch.index.device.type != "cpu":
            return None
        try:
            pickled = pickle.dumps((_entries(model), task, batch))
            request = (folder.resolve(), imported_files(), torch.get_num_threads(), pickled)
            answer = self._ask(pickle.dumps(request))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if isinstance(answer, int):
            return answer
        log.warning("cannot measure the memory of one inference: %s", answer)
        return None

    def _ask(self, request: bytes) -> int | str:
        assert self._worker is not None
        send(self._worker.stdin, request)
        answer = receive(self._worker.stdout)
        return pickle.loads(answer) if answer else "the process ended"


def _entries(model: nn.Module) -> list[Any]:
    """Return what the process has to allow to load the model."""
    classes = {parametrize.type_before_parametrizations(module) for module in model.modules()}
    named = sorted((kind for kind in classes if not is_unnamed(kind)), key=str)
    origin = origin_of(model)
    return named if origin is None else [*named, origin[0].source]


def _start() -> subprocess.Popen[bytes]:
    # The process can import the same modules as this one. Tensors get their own pages, which are returned at once;
    # otherwise the allocator would keep some of them, depending on earlier allocations.
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "toolkit.metrics.support.memory_worker"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def _peak(subject: Subject) -> dict[str, int]:
    """Return the memory of the smallest timed batch, or nothing if it cannot be measured."""
    batch = subject.data.example(subject.batch_sizes[0])
    peak = subject.session.peak_bytes(subject.folder, subject.model, subject.data.task, batch)
    return {} if peak is None else {"peak_memory_bytes": peak}


METRIC = Metric(
    _peak,
    (
        Quantity(
            "peak_memory_bytes",
            bytes_text,
            "peak memory of a process that loads the model and runs the smallest batch, without the libraries",
            unit="bytes",
            better="lower",
            title="memory",
            dispensable=96,
            bounds=COUNT,
            comparison=Comparison(between_runs=0.1),
        ),
    ),
    order=40,
    place=50,
    session=MemoryMeter,
    rehearsed=False,
)
