"""What a network computes as a list of operations: plain data, which a file can hold, instead of Python code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch

Kind = Literal["input", "layer", "function", "method", "attribute", "tensor", "output"]


class Ref(NamedTuple):
    """The result of the operation of that name, as an argument of another one."""

    name: str


@dataclass(frozen=True)
class Operation:
    """One operation of a network.

    `target` is the argument's name of an input, the path of a layer or a tensor, the name of a function (`FUNCTIONS`),
    of a method or of an attribute of the first argument. The first argument of an input is its default.
    """

    name: str
    kind: Kind
    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """The names of the operations whose results it takes, in the order of its arguments."""
        return [ref.name for ref in _refs((self.args, self.kwargs))]

    def with_inputs(self, renamed: Callable[[str], str]) -> Operation:
        """Return the operation on other inputs."""
        args, kwargs = mapped((self.args, self.kwargs), lambda name: Ref(renamed(name)))
        return replace(self, args=args, kwargs=kwargs)


Program = tuple[Operation, ...]


def users(program: Program) -> dict[str, list[Operation]]:
    """Return the operations that take the result of each operation."""
    using: dict[str, list[Operation]] = {operation.name: [] for operation in program}
    for operation in program:
        for name in dict.fromkeys(operation.inputs):
            using[name].append(operation)
    return using


def without(program: Program, dropped: Sequence[str]) -> Program:
    """Return the program without some operations; whatever used them uses their first input."""
    sources = {operation.name: operation.inputs[0] for operation in program if operation.name in dropped}

    def source(name: str) -> str:
        while name in sources:
            name = sources[name]
        return name

    return tuple(operation.with_inputs(source) for operation in program if operation.name not in sources)


def mapped(value: Any, of: Callable[[str], Any]) -> Any:
    """Return nested arguments with `of(name)` in place of each reference."""
    if isinstance(value, Ref):
        return of(value.name)
    if isinstance(value, dict):
        return {key: mapped(item, of) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(mapped(part, of) for part in (value.start, value.stop, value.step)))
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(item, of) for item in value)
    return value


def _refs(value: Any) -> Iterator[Ref]:
    names: list[str] = []
    mapped(value, names.append)
    return map(Ref, names)


def dumped(program: Program) -> str:
    """Return the program as text."""
    return json.dumps([[each.name, each.kind, each.target, _plain(each.args), _plain(each.kwargs)] for each in program])


@lru_cache(maxsize=64)
def loaded(text: str) -> Program:
    """Return the program that `dumped` wrote."""
    return tuple(
        Operation(name, kind, target, _restored(args), _restored(kwargs))
        for name, kind, target, args, kwargs in json.loads(text)
    )


def _plain(value: Any) -> Any:
    """Return arguments in JSON, where an object with one key stands for what JSON does not have."""
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, (tuple, dict)):
        items = value.items() if isinstance(value, dict) else value
        return {type(value).__name__: [_plain(list(item) if isinstance(value, dict) else item) for item in items]}
    if isinstance(value, slice):
        return {"slice": [_plain(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"it passes a {type(value).__name__} to an operation")


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "ref":
        return Ref(content)
    if kind == "dtype":
        dtype = vars(torch)[content]
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"torch.{content} is no dtype")
        return dtype
    made: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "dict": dict, "slice": lambda parts: slice(*parts)}
    return made[kind](map(_restored, content))
