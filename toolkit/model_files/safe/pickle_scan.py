"""Scan of what a pickle would do, before torch's restricted unpickler executes its opcodes.

That unpickler calls nothing that is not on its list. But with what is on the list, a few bytes can still ask for
gigabytes, or for work without end. So the scan follows the opcodes with a stack and a memo, as the unpickler does.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import IO, Any, NamedTuple

from torch._utils import IMPORT_MAPPING, NAME_MAPPING

MAX_BYTES = 4 << 20  # a ResNet-18 takes 24 KB
MAX_OBJECTS = 400_000  # two bytes of the file can take hundreds of bytes of memory
MAX_DEPTH = 100  # of tuples in tuples, whose hash recurses
MAX_COMPARED = 10_000  # tuples and long integers among keys, which can be chosen to have equal hashes
MAX_NAME_LENGTH = 500  # characters of a class or function with its module, which is looked up part by part
MAX_NAMES = 1_000  # of classes and functions
MAX_REPEATED = 1_000_000  # parts of tuples that are written once and used again

NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1"}
VALUES = {"NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
CONTAINERS = {"EMPTY_LIST", "EMPTY_DICT"}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(ValueError):
    """A file is not opened; the message says why, and leaves the file's name to the caller."""


class Item(NamedTuple):
    """What the scan knows of a value on the stack."""

    name: str = ""  # of a class or function
    number: int = 0
    size: int = 1  # of a tuple, with everything in it
    depth: int = 0
    compared: bool = False  # by its content, or by a hash that the file can choose
    contains: bool = False  # other values, which a call could copy
    repeated: bool = False  # taken from the memo
    parts: tuple[Item, ...] = ()  # of a tuple


PLAIN, PLAIN_AGAIN = Item(), Item(repeated=True)  # most of all values


class Call(NamedTuple):
    """The name of a function, and its arguments."""

    name: str
    arguments: tuple[Item, ...]


@dataclass
class Scan:
    """The names in a pickle, its calls, and the classes of which it makes instances without calling them."""

    names: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    instances: set[str] = field(default_factory=set)
    loads: bool = False  # tensors with data
    largest_storage: int = 0  # in elements


def scan(content: bytes | IO[bytes]) -> Scan:
    """Scan one pickle; a `RefusedError` says why it must not be opened.

    Args:
        content: the pickle, or a file that stands at its beginning and is left at its end.
    """
    file = BytesIO(content) if isinstance(content, bytes) else content
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
    except RefusedError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise RefusedError(f"its pickle is damaged: {' '.join(str(error).split())}") from error
    return machine.contents


def check_copies(call: Call) -> None:
    """Refuse a call that could copy one long value many times; torch.save writes the arguments of each call anew."""
    copied = any(argument.repeated and not argument.name for argument in call.arguments)
    if call.name == "functools.partial":  # created by its function alone; the rest is its state
        copied = len(call.arguments) != 1 or call.arguments[0].contains
    if copied:
        raise RefusedError(f"its pickle calls '{call.name}' with one value again and again")


class _Machine:
    def __init__(self) -> None:
        self.contents = Scan()
        self.stack: list[Item] = []
        self.outer: list[list[Item]] = []
        self.memo: dict[int, Item] = {}
        self.made = self.compared = self.repeated = 0

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in VALUES:
            self.stack.append(PLAIN)
        elif opcode in NUMBERS:
            self.stack.append(Item(number=argument, compared=opcode == "LONG1"))
        elif opcode in TUPLES:
            self._tuple(self._pop(TUPLES[opcode]))
        elif opcode in CONTAINERS:
            self._make(Item(contains=True))
        elif opcode in METHODS:
            METHODS[opcode](self, argument)
        else:
            raise RefusedError(f"its pickle has the opcode {opcode}, which torch.save does not write")

    def _proto(self, _: int) -> None: ...

    def _stop(self, _: None) -> None:
        self.stack[-1]

    def _global(self, argument: str) -> None:
        module, _, name = argument.rpartition(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if len(argument) > MAX_NAME_LENGTH:
            raise RefusedError(f"its pickle has a name of more than {MAX_NAME_LENGTH} characters")
        self.contents.names.add(f"{module}.{name}")
        if len(self.contents.names) > MAX_NAMES:
            raise RefusedError(f"its pickle names more than {MAX_NAMES} classes and functions")
        self.stack.append(Item(name=f"{module}.{name}"))

    def _mark(self, _: None) -> None:
        self._count()
        self.outer.append(self.stack)
        self.stack = []

    def _tuple(self, items: Sequence[Item] | None) -> None:
        parts = self._pop_mark() if items is None else items
        size, depth = 1 + sum(part.size for part in parts), 1 + max((part.depth for part in parts), default=0)
        if depth > MAX_DEPTH:
            raise RefusedError(f"its pickle has tuples that are nested more than {MAX_DEPTH} deep")
        self._make(Item(size=size, depth=depth, compared=True, contains=True, parts=tuple(parts)))

    def _binput(self, index: int) -> None:
        # Without its parts: they have been checked, and the memo would keep them in memory.
        item = self.stack[-1]
        self.memo[index] = PLAIN_AGAIN if item is PLAIN else item._replace(parts=(), repeated=True)

    def _binget(self, index: int) -> None:
        item = self.memo[index]
        self.repeated += item.size - 1
        if self.repeated > MAX_REPEATED:
            raise RefusedError("its pickle has tuples that double again and again")
        self.stack.append(item)

    _long_binput, _long_binget = _binput, _binget

    def _append(self, _: None) -> None:
        self._compare(self._pop(1))

    def _appends(self, _: None) -> None:
        self._compare(self._pop_mark())

    def _setitem(self, _: None) -> None:
        self._compare(self._pop(2)[:1])

    def _setitems(self, _: None) -> None:
        self._compare(self._pop_mark()[::2])

    def _reduce(self, _: None) -> None:
        function, arguments = self._pop(2)
        if not function.name or arguments.repeated:
            raise RefusedError("its pickle makes a call as torch.save does not write it")
        self.contents.calls.append(Call(function.name, arguments.parts))
        self._make(Item(contains=True))

    def _newobj(self, _: None) -> None:
        kind, arguments = self._pop(2)
        if not kind.name or arguments.repeated:
            raise RefusedError("its pickle makes an object as torch.save does not write it")
        self.contents.instances.add(kind.name)
        if arguments.size > 1:  # then making it is a call
            self.contents.calls.append(Call(kind.name, arguments.parts))
        self._make(Item())

    def _build(self, _: None) -> None:
        (state,) = self._pop(1)
        # A state is copied, and a long one could be given to many objects.
        if any(item.contains and item.repeated for item in (state, *state.parts)):
            raise RefusedError("its pickle gives one state to several objects")
        self.stack[-1]

    def _binpersid(self, _: None) -> None:
        (storage,) = self._pop(1)
        self.contents.loads = True
        self.contents.largest_storage = max(self.contents.largest_storage, *(part.number for part in storage.parts))
        self._make(Item())

    def _make(self, item: Item) -> None:
        self._count()
        self.stack.append(item)

    def _count(self) -> None:
        self.made += 1
        if self.made > MAX_OBJECTS:
            raise RefusedError(f"its pickle makes more than {MAX_OBJECTS} objects")

    def _compare(self, items: Sequence[Item]) -> None:
        self.compared += sum(item.compared for item in items)
        if self.compared > MAX_COMPARED:
            raise RefusedError(f"its pickle has more than {MAX_COMPARED} tuples or long integers in lists")

    def _pop(self, count: int) -> list[Item]:
        start = len(self.stack) - count
        if start < 0:
            raise LookupError("the stack is empty")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _pop_mark(self) -> list[Item]:
        items, self.stack = self.stack, self.outer.pop()
        return items


OPCODES = (
    *("PROTO", "STOP", "GLOBAL", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "TUPLE", "APPEND"),
    *("APPENDS", "SETITEM", "SETITEMS", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
)
METHODS: dict[str, Callable[[_Machine, Any], None]] = {name: getattr(_Machine, f"_{name.lower()}") for name in OPCODES}
