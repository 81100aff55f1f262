"""An exported file, opened in a process of its own that has neither the toolkit nor the recipe's sources."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.errors import TechniqueError
from toolkit.exports import worker

MAX_ANSWER_S = 600.0  # a runtime that takes longer for one call hangs


class OpenedFile(nn.Module):
    """An exported file as a module: calling it runs the file in the other process.

    A context manager, which ends that process. Inputs are tensors on the CPU, in a tuple or a dictionary where the
    network takes several; outputs have the structure that the runtime returns, with tensors.

    Args:
        folder: the files.
        source: the script that opens them, of `portable_source`.
        params: the plugin's settings, plain values.
        threads: for computing one call.
        blocked: packages that cannot be imported there, besides the toolkit and its plugins.
        what: the file, as errors name it.
        files: checksums (SHA-256) by path, which the other process compares before it opens anything.
        beside: a file in whose process this one is opened, too, which ends with that one.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        params: Mapping[str, Any],
        threads: int,
        blocked: Collection[str],
        what: str,
        files: Mapping[str, str] = MappingProxyType({}),
        beside: OpenedFile | None = None,
    ) -> None:
        super().__init__()
        self._what, self._is_guest = what, beside is not None
        if beside is None:
            # What a runtime unpacks there would stay, since the process does not end by itself.
            self._scratch = tempfile.TemporaryDirectory(prefix="toolkit-file-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] = (
            _start(threads, self._scratch.name) if beside is None else beside._process
        )
        place = {"folder": str(folder.resolve()), "files": dict(files)}
        request = {**place, "source": source, "params": dict(params), "threads": threads}
        self._resource: list[Any] = []
        try:
            reply, _ = self._ask("open", {**request, "blocked": sorted({"toolkit", *blocked})}, [])
            self._file = int(reply["file"])
        except BaseException:
            self._end()
            raise

    def keep(self, resource: Any) -> None:
        """Keep something until the process ends, such as the temporary folder of the files."""
        self._resource = [resource]

    def __enter__(self) -> OpenedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._is_guest:
            self._resource = []
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # data that was not sent yet
                    stream.close()
        self._scratch.cleanup()
        self._resource = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        structure, arrays = _packed(kwargs or (args[0] if len(args) == 1 else args))
        reply, outputs = self._ask("answer", {"file": self._file, "inputs": structure}, arrays)
        return _tensors(reply["outputs"], outputs)

    def seconds(self, calls: int, *args: Any, **kwargs: Any) -> float:
        """Return the seconds that `calls` calls take in the other process, without what it costs to send inputs."""
        structure, arrays = _packed(kwargs or (args[0] if len(args) == 1 else args))
        reply, _ = self._ask("time", {"file": self._file, "inputs": structure, "calls": calls}, arrays)
        return float(reply["seconds"])

    def _ask(self, do: str, header: Mapping[str, Any], arrays: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        with self._killed_after(MAX_ANSWER_S) as killed:
            try:
                worker.send(self._process.stdin, {"do": do, **header}, arrays)
                reply, outputs = worker.receive(self._process.stdout)
            except (OSError, ValueError):  # a process that ended has left a message half-written
                reply, outputs = None, []
        if killed.is_set():
            raise TechniqueError(f"{self._what} was not {_PAST[do]} within {MAX_ANSWER_S:g} s; its runtime hangs")
        if reply is None:
            raise TechniqueError(f"{self._what} ended the process in which it was {_PAST[do]}")
        if "error" in reply:
            raise TechniqueError(f"{self._what} cannot be {_PAST[do]}: {reply['error']}")
        return reply, outputs

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[threading.Event]:
        """End the other process after a time, which ends the wait for its answer; the event says whether it was."""
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield killed
        finally:
            timer.cancel()


_PAST = {"open": "opened", "answer": "run", "time": "timed"}


def _start(threads: int, scratch: str) -> subprocess.Popen[bytes]:
    # Isolated: neither the working directory nor PYTHONPATH, where a recipe's sources may be, can be imported from.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch)
    command = [sys.executable, "-I", str(Path(worker.__file__))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]  # unpacked keywords


def _packed(inputs: Any) -> tuple[Any, list[Any]]:
    arrays: list[Any] = []
    plain = {key: _array(value) for key, value in inputs.items()} if isinstance(inputs, Mapping) else inputs
    return worker.packed(_array(plain), arrays), arrays


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, Mapping):
        return {key: _array(item) for key, item in value.items()}
    return [_array(item) for item in value] if isinstance(value, (list, tuple)) else value


def _tensors(structure: Any, arrays: list[Any]) -> Any:
    value = worker.unpacked(structure, arrays)
    return _as_tensors(value)


def _as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_as_tensors(item) for item in value)
    return torch.from_numpy(np.ascontiguousarray(value))
