"""Hooks that may be generator functions: what they do after a `yield` happens later, when other work has begun."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

from toolkit.hooks.loading import Plugin

T = TypeVar("T")
UNFINISHED = object()


def steps(plugin: Plugin, hook: str, **arguments: Any) -> Generator[None, None, Any]:
    """Call a hook as `Plugin.call` does, yield wherever it yields, and return what it returns.

    Closing the generator closes that of the hook, which ends what it has started.
    """
    result: Any = plugin.call(hook, **arguments)
    if not inspect.isgenerator(result):
        return result
    advance = partial(_advanced, result)
    try:
        while (value := plugin.guarded(hook, advance, list(arguments))) is UNFINISHED:
            yield
        return value
    finally:
        result.close()


def _advanced(generator: Iterator[Any]) -> Any:
    try:
        next(generator)
    except StopIteration as end:
        return end.value
    return UNFINISHED


class Work(Generic[T]):
    """What a generator does: it begins at once, and ends when its result is asked for."""

    def __init__(self, generator: Generator[None, None, T]) -> None:
        self._generator, self._results = generator, list[T]()
        self._advance()

    def result(self) -> T:
        """Do the rest, and return what the generator returns."""
        while not self._results:
            self._advance()
        return self._results[0]

    def close(self) -> None:
        """End what goes on; nothing if it is done."""
        self._generator.close()

    def _advance(self) -> None:
        try:
            next(self._generator)
        except StopIteration as end:
            self._results.append(end.value)
