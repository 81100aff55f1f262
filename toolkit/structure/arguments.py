"""The arguments of an operation, and the operand whose channels it passes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from toolkit.structure.slots import Slots
from toolkit.structure.values import Channels, Operand

Rule: TypeAlias = Callable[[Slots, Sequence[Any], dict[str, Any], Any], Any]
"""Returns what is known of an operation's result, from its arguments, named arguments and result."""


class UnclearError(Exception):
    """A layer or operation does something with channels that has no rule; the text follows its name."""


def argument(args: Sequence[Any], kwargs: dict[str, Any], position: int, name: str, default: Any = None) -> Any:
    """Return the value of an argument, which is passed by position or by name."""
    found = args[position] if len(args) > position else kwargs.get(name, default)
    return found.value if isinstance(found, Operand) else found


def first(args: Sequence[Any], kwargs: dict[str, Any]) -> Operand:
    """Return the first argument, which has to be the tensor with the channels."""
    operand: Any = args[0] if args else kwargs.get("input", kwargs.get("x"))
    if not isinstance(operand, Operand) or operand.channels is None:
        raise UnclearError("uses them in a way that has no rule")
    return operand


def channels_of(args: Sequence[Any], kwargs: dict[str, Any]) -> Channels:
    """Return the channels of the first argument."""
    channels = first(args, kwargs).channels
    assert channels is not None
    return channels
