"""The line of a plugin in which an error was raised."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def last_author_line(error: BaseException, module: ModuleType) -> str:
    """Return the last line of the plugin in the error's tracebacks, e.g. `mine.py:7 in optimize: weight.foo()`.

    An error without a line of the plugin, such as an assertion about its result, returns an empty string.
    """
    for cause in reversed([*_causes(error)]):
        frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if _belongs(frame.filename, module)]
        if frames:
            frame = frames[-1]
            return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of its cause, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _belongs(file: str, module: ModuleType) -> bool:
    packages = getattr(module, "__path__", None)
    if packages is None:
        return file == module.__file__
    return any(Path(file).is_relative_to(package) for package in packages)
