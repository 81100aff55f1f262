"""Log messages that several tries of the same recipe repeat."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def each_once(logger: logging.Logger) -> Iterator[None]:
    """Let each message of a logger pass once inside."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return message not in seen and not seen.add(message)  # type: ignore[func-returns-value]  # None: it is new

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
