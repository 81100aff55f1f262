"""The processor cores that this process may use: fewer than the machine has, under an affinity or a cgroup's quota."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

V1_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")  # folders of version 1 that may hold the controller of cores


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use at a time, at least one.

    A quota is rounded down. With a thread more, the quota would be used up before the end of each period, and all
    threads would wait for the next one, which spoils every latency.

    Args:
        root: where `proc` and `sys` are found.
    """
    quotas = [int(quota) for quota in _quotas(root)]
    return max(1, min([len(allowed_cores()), *quotas]))


def allowed_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of this process's cgroups and of those around them, in cores."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            mounts = [""] if number == "0" else V1_MOUNTS if "cpu" in controllers.split(",") else []
            for mount in mounts:
                yield from _quotas_below(root / "sys/fs/cgroup" / mount, path)


def _quotas_below(mount: Path, path: str) -> Iterator[float]:
    """Yield the quotas of the folder at `path` and of all above it, as far as they can be read.

    A container often sees its own cgroup as the mount, although `path` names it as the host does.
    """
    folder = mount / path.lstrip("/")
    for place in (folder, *folder.parents):
        if place.is_relative_to(mount):
            with suppress(OSError, ValueError):
                yield _quota(place)


def _quota(folder: Path) -> float:
    """Return the quota of one cgroup in cores; a `ValueError` if it has none."""
    if (folder / "cpu.max").is_file():
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    cores = int(quota) / int(period)
    if cores <= 0:
        raise ValueError("no quota")
    return cores
