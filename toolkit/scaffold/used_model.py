"""The model of a new recipe as an example: its source, with the arguments that may set its size."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.importing import absolute_source
from toolkit.scaffold.templates import inline_table, toml
from toolkit.sources import resolve


def example_of(source: str, written: str, args: str) -> str:
    """Return a model as a table of TOML on one line.

    Args:
        source: source of the model, relative to the working directory.
        written: the same as a recipe names it.
        args: its arguments, a table of TOML on one line.
    """
    numbers = dict(_numbers(source, inline_table(args)))
    return toml({"source": written, "args": numbers} if numbers else {"source": written})


def _numbers(source: str, args: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the arguments that are numbers or lists of numbers, with the values that the model has."""
    try:
        parameters = inspect.signature(resolve(absolute_source(source, Path()), "model")).parameters
    except (ValueError, TypeError):  # which is reported when the recipe is checked
        return
    for name, parameter in parameters.items():
        value = args.get(name, parameter.default)
        if _is_size(value):
            yield name, value


def _is_size(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)
