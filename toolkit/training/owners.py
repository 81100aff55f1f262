"""Who added what to a training: errors in it name the technique and the slot."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from toolkit.errors import TechniqueError, ToolkitError, described

F = TypeVar("F", bound=Callable[..., Any])


class SlotError(TechniqueError):
    """Something that a technique added to a training failed; the message names the technique and the slot."""


@contextmanager
def attributed_to(owner: str, slot: str) -> Iterator[None]:
    """Raise whatever fails inside as a `SlotError`; without an owner, raise it unchanged."""
    try:
        yield
    except SlotError:  # of a loss that this loss wraps
        raise
    except ToolkitError as error:
        if not owner:
            raise
        raise SlotError(f"{owner} refused in `{slot}`: {error}") from error
    except (Exception, SystemExit) as error:
        if not owner:
            raise
        raise SlotError(f"{owner} failed in `{slot}` with {described(error)}") from error


def slot_error(owner: str, slot: str, problem: str) -> SlotError:
    """Return an error about what a slot returned or left behind; `problem` continues the sentence."""
    return SlotError(f"{owner}: `{slot}` {problem}" if owner else f"`{slot}` {problem}")


@dataclass(frozen=True)
class Added(Generic[F]):
    """A function in a slot of a training.

    Attributes:
        function: the function itself.
        slot: name of the slot, such as `after_step`.
        owner: name and distribution of the technique that added it, empty outside a stage.
    """

    function: F
    slot: str
    owner: str = ""

    def __call__(self, *arguments: Any) -> Any:
        """Call the function; whatever it raises names the owner and the slot."""
        with attributed_to(self.owner, self.slot):
            return self.function(*arguments)


def check_callable(function: Any, slot: str, *arguments: str) -> None:
    """Raise a `TypeError` unless `function` can be called with these positional arguments."""
    signature = f"({', '.join(arguments)})"
    if not callable(function):
        raise TypeError(f"`{slot}` must be a function of {signature}, found {type(function).__name__}")
    try:
        parameters = inspect.signature(function)
    except ValueError:  # a builtin without a signature
        return
    try:
        parameters.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"`{slot}` must be a function of {signature}, found one of {parameters}") from error
