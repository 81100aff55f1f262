"""A signal asks a run to stop: noted where it comes, raised where the run can stop, and only in the main thread."""

import os
import signal
import threading

import pytest

from toolkit.interruption import Interrupted, stopping_on_signals


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_at_the_next_good_place(number, exit_code):
    with stopping_on_signals() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(Interrupted) as caught:
            stop.check()
    assert caught.value.exit_code == exit_code


def test_handlers_come_back():
    def fail() -> None:
        with stopping_on_signals():
            assert signal.getsignal(signal.SIGTERM) != before
            raise ZeroDivisionError

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_a_thread_no_handler_is_set():
    seen = []

    def run() -> None:
        with stopping_on_signals() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
