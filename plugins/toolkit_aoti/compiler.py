"""The compiler of packages, which works in the background for all exports that go on at the same time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

SCRIPT = Path(__file__).with_name("packager.py")
SETTINGS = {"aot_inductor.enable_line_tables": False}  # for profilers: they double the size of a LeNet-5's package
MESSAGES_SUFFIX = ".messages"


class Compiler:
    """A context manager that may be entered again inside itself; its last end ends everything that still compiles."""

    def __init__(self) -> None:
        self._users, self._statuses = 0, dict[str, int]()

    def __enter__(self) -> Compiler:
        if self._users == 0:
            self._process, self._statuses = _started(), {}
        self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users > 0:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def begin(self, program: Path, package: Path) -> None:
        """Begin to compile the file of a program."""
        job: dict[str, Any] = {"program": str(program), "package": str(package), "messages": str(_messages(program))}
        job |= {"threads": torch.get_num_threads(), "settings": SETTINGS}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the status says that the process has ended
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    def problem(self, program: Path, package: Path) -> str | None:
        """Wait for a package, and return why there is none, or None."""
        status = self._status(str(package))
        return None if status == 0 else _reason(_messages(program), status)

    def _status(self, package: str) -> int:
        assert self._process.stdout is not None
        while package not in self._statuses:
            line = self._process.stdout.readline()
            if not line:
                return self._process.wait()
            done, self._statuses[done] = json.loads(line)
        return self._statuses[package]


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT)],
        env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"},  # more would be processes that import torch
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _messages(program: Path) -> Path:
    return program.with_suffix(MESSAGES_SUFFIX)


def _reason(messages: Path, status: int) -> str:
    """Return the last line that tells of an error, else the last one."""
    text = messages.read_text(errors="replace") if messages.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]
    return (errors or lines or [f"its process ended with status {status}"])[-1]
