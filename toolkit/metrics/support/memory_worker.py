"""The process that measures memory. It forks for each request, so that each starts from the same state.

`toolkit.metrics.memory` runs it as `python -m toolkit.metrics.support.memory_worker` and exchanges pickles with it:
both ends are the same program, and no pickle comes from a file. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit import model_files as artifact
from toolkit.errors import ArtifactError
from toolkit.importing import import_file

TIMEOUT_S = 60


def main() -> None:
    """Answer requests from standard input until it ends; all other output goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the pipe
    while request := receive(sys.stdin.buffer):
        send(answers, _in_a_fork(request))


def send(stream: Any, content: bytes) -> None:
    """Write the length of a message, and then its bytes."""
    stream.write(struct.pack(">Q", len(content)) + content)
    stream.flush()


def receive(stream: Any) -> bytes:
    """Read a message; return no bytes at the end of the stream."""
    header = stream.read(8)
    return stream.read(struct.unpack(">Q", header)[0]) if len(header) == 8 else b""


def _in_a_fork(request: bytes) -> bytes:
    """Return the answer of a child process, no bytes if it dies."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(TIMEOUT_S)
        os.close(reading)
        with os.fdopen(writing, "wb") as answer:
            answer.write(_answer(request))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    return content


def _answer(request: bytes) -> bytes:
    try:
        return pickle.dumps(_peak_bytes(*pickle.loads(request)))
    except BaseException as error:
        traceback.print_exc()
        return pickle.dumps(f"{type(error).__name__}: {error}")


def _peak_bytes(folder: Path, files: list[str], threads: int, pickled: bytes) -> int:
    for file in files:
        import_file(Path(file))
    classes, task, batch = pickle.loads(pickled)  # imports their modules
    torch.set_num_threads(threads)
    _warm_up()
    before = _status("RssAnon")
    model = _opened(folder, classes)
    resident = _inference(model, task, batch) - before
    # The first inference loads the code of all kernels; the second one measures the tensors alone.
    standing = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    _inference(model, task, batch)
    return resident + _status("VmHWM") - standing


def _opened(folder: Path, entries: list[Any]) -> nn.Module:
    """Return the saved model; it may also consist of what its modules import, such as their settings.

    The process that asks has just written it, or has loaded the same file with no more than its user allows.
    """
    try:
        return artifact.load(folder, entries)
    except ArtifactError as error:
        imported = [_imported(name) for name in error.unknown]
        if not imported or None in imported:
            raise
        return artifact.load(folder, [*entries, *imported])


def _imported(name: str) -> Any:
    """Return a class of a module that is imported already, None if there is no such class."""
    module, _, own = name.rpartition(".")
    return getattr(sys.modules.get(module), own, None)


def _warm_up() -> None:
    """Allocate what libraries keep after the first convolution and the first product."""
    with torch.inference_mode():
        nn.Conv2d(1, 4, 3)(torch.zeros(2, 1, 8, 8))
        nn.Linear(64, 64)(torch.zeros(32, 64))
    _trim()


def _inference(model: nn.Module, task: Any, batch: Any) -> int:
    """Run one batch and return the bytes that the process has in use afterwards."""
    with torch.inference_mode():
        task.forward(model, batch)
    _trim()
    return _status("RssAnon")


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _status(key: str) -> int:
    """Return a size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024


if __name__ == "__main__":
    main()
