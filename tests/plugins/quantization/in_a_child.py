"""Tests that compile leave threads behind: run in the same process, they would keep tests that fork from training."""

import functools
import multiprocessing
from collections.abc import Callable
from typing import Any


def in_a_child(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a copy of this process, whose traceback is printed to stderr."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        child = multiprocessing.get_context("fork").Process(target=test, args=args, kwargs=fixtures)
        child.start()
        child.join()
        assert child.exitcode == 0, "the traceback is in the captured stderr"

    return run
