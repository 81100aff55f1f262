"""Signals that ask a run to stop: the first at the next good place, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and what it had done so far is kept."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Stop:
    """Whether somebody asked to stop; `here` is called wherever a run can."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    def here(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def take(self, number: int, _: FrameType | None) -> None:
        """Note the first signal; the second one ends the run wherever it is."""
        if self.asked:
            raise Interrupted(number)
        self.number = number


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Signals inside are noted in what is yielded; in a thread, where Python allows no handlers, none are."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: list[Any] = [signal.signal(number, stop.take) for number in SIGNALS]
    try:
        yield stop
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
