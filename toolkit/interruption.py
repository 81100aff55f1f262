"""Stopping a run on a signal: the first signal stops it at the next safe point, the second one immediately."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Ctrl-Break, which only Windows has
SIGNALS: tuple[signal.Signals, ...] = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal; its progress is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Stop:
    """A request to stop the run, which sets `number` to the signal; `check` is called at every safe point."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.number is not None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived."""
        if self.number is not None:
            raise Interrupted(self.number)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Record the first signal; raise `Interrupted` on the second, wherever the run is."""
        if self.requested:
            raise Interrupted(number)
        self.number = number


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Record `SIGNALS` in the `Stop` it yields; not in a thread, where Python allows no signal handlers."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous: list[Any] = [signal.signal(number, stop.handle) for number in SIGNALS]
    try:
        yield stop
    finally:
        for number, handler in zip(SIGNALS, previous, strict=True):
            signal.signal(number, handler)
