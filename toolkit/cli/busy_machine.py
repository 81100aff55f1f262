"""Threads that do not keep the processor from others on a busy machine; decided before torch is imported."""

from __future__ import annotations

import os
import sys
from statistics import fmean

import click

from toolkit.cores import allowed_cores

BUSY_PERCENT = 25.0  # of the cores that this process may run on, used by other processes
SAMPLE_S = 0.2
# Settings of OpenMP's waiting, of GNU and Intel. Who has set one decides.
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_passively_if_busy() -> None:
    """Let OpenMP's threads sleep instead of spin if other processes use the cores, and say so.

    A thread that spins for one that another process has displaced keeps the core from it: with two processes on two
    cores, training steps take several times as long. On a quiet machine sleeping threads cost up to 30 %, so there
    nothing changes. OpenMP reads the setting when torch is imported.
    """
    if "torch" in sys.modules or any(name in os.environ for name in SETTINGS):
        return
    percent = _busy_percent()
    if percent < BUSY_PERCENT:
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    click.echo(
        f"other processes use {percent:.0f} % of the cores: threads wait passively (OMP_WAIT_POLICY=PASSIVE), "
        "and latencies may be inexact",
        err=True,
    )


def _busy_percent() -> float:
    """Return how much of the cores that this process may run on is in use."""
    import psutil

    percents = psutil.cpu_percent(interval=SAMPLE_S, percpu=True)
    allowed = [percents[core] for core in allowed_cores() if core < len(percents)]
    return fmean(allowed or percents)
