"""Where a run took place: what a reader of its numbers has to know."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from toolkit.cores import usable_cores
from toolkit.errors import InputError

log = logging.getLogger("toolkit")

THREADS = "OMP_NUM_THREADS"
# What does not work on other systems than Linux, as the page "What is not obvious" of the manual says.
NO_MEMORY = "the peak memory of an inference is measured on Linux only"
LIMITS = {"win32": f"{NO_MEMORY}, and on Windows only Ctrl-C and Ctrl-Break stop a run with a checkpoint"}


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes CUDA, then MPS, then the CPU. An `InputError` if it is missing."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, is_there in available.items() if is_there))
    if not available[name]:
        devices = ", ".join(device for device, is_there in available.items() if is_there)
        raise InputError(f"device '{name}' is not available; choose one of {devices}, auto")
    return torch.device(name)


@contextmanager
def fixed_threads(threads: int | None) -> Iterator[int]:
    """Let torch use so many threads inside, and as many as before outside; None for `default_threads`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or default_threads())
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def default_threads() -> int:
    """Return torch's number of threads, but no more than there are usable cores, unless the user has set a number."""
    return torch.get_num_threads() if os.environ.get(THREADS) else min(torch.get_num_threads(), usable_cores())


def warn_about_machine(threads: int, in_recipe: bool) -> None:
    """Log what this machine cannot do: what is not supported, and more threads than this process may use cores.

    Args:
        threads: number of threads that compute.
        in_recipe: whether the recipe says so, instead of the environment.
    """
    if sys.platform != "linux":
        log.warning("%s", LIMITS.get(sys.platform, NO_MEMORY))
    cores = usable_cores()
    if threads > cores:
        log.warning(
            "%s: %d threads share the %s that this process may use, and latencies may be inexact; set at most %d",
            "threads" if in_recipe else THREADS,
            threads,
            "one core" if cores == 1 else f"{cores} cores",
            cores,
        )


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, processor, memory, threads and device, for the report."""
    return {
        "toolkit": version("torch-optimization-toolkit"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":  # where Python knows no more than "arm"
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()
