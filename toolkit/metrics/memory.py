"""The most memory that one inference needs, in a process of its own."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import torch
from torch import nn
from torch.nn.utils import parametrize

from toolkit.metrics.support.memory_worker import receive, send
from toolkit.metrics.support.metric import Metric, Quantity, Subject
from toolkit.number_text import bytes_text
from toolkit.sources import imported_files
from toolkit.tasks import Batch, Task

log = logging.getLogger("toolkit")


class MemoryMeter:
    """Loads saved models in another process and sees how it grows; a context manager, which ends that process.

    The process is started at once and imports torch while this one goes on. Where it cannot do its work (another
    system than Linux, a task that cannot be pickled) there is no number, and the log says why.
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
        """Bytes by which a process grows at most that loads the model in `folder` and answers `batch`.

        The weights, what the inference allocates, and what the libraries keep for it; not the code of torch.

        Args:
            folder: where the model is saved.
            model: the same model, whose classes the other process may open.
            task: feeds the batch.
            batch: on the CPU; None is returned for any other device.
        """
        if self._worker is None or batch.index.device.type != "cpu":
            return None
        classes = {parametrize.type_before_parametrizations(module) for module in model.modules()}
        try:
            pickled = pickle.dumps((sorted(classes, key=str), task, batch))
            request = (folder.resolve(), imported_files(), torch.get_num_threads(), pickled)
            found = self._ask(pickle.dumps(request))
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if isinstance(found, int):
            return found
        log.warning("the memory of one inference was not measured: %s", found)
        return None

    def _ask(self, request: bytes) -> int | str:
        assert self._worker is not None
        send(self._worker.stdin, request)
        answer = receive(self._worker.stdout)
        return pickle.loads(answer) if answer else "the process ended"


def _start() -> subprocess.Popen[bytes]:
    # Whatever was imported from here can be imported there. Tensors get pages of their own, which are given back at
    # once: otherwise the allocator would keep some, and decide by what came before.
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "toolkit.metrics.support.memory_worker"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def _peak(subject: Subject) -> dict[str, int]:
    """Measure the memory of the smallest timed batch; return nothing where it cannot be measured."""
    batch = subject.data.example(subject.batch_sizes[0])
    peak = subject.session.peak_bytes(subject.folder, subject.model, subject.data.task, batch)
    return {} if peak is None else {"peak_memory_bytes": peak}


METRIC = Metric(
    _peak,
    (
        Quantity(
            "peak_memory_bytes",
            bytes_text,
            "bytes by which a process grows that loads the model and answers the smallest batch",
            "memory",
            dispensable=96,
            minimum=0,
            between_runs=0.1,
        ),
    ),
    order=40,
    place=50,
    session=MemoryMeter,
)
