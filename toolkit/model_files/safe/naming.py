"""A pickler for `torch.save` that writes stored names in place of module paths."""

from __future__ import annotations

import enum
import pickle
import pickletools
from io import BytesIO
from types import SimpleNamespace
from typing import IO, Any

from toolkit.stored_names import MARK, name_of


class _Pickler(pickle.Pickler):
    """Pickles as usual, and replaces the names at the end: pickle offers no hook for how it names a class."""

    def __init__(self, file: IO[bytes], protocol: int) -> None:
        self._file, self._buffer = file, BytesIO()
        super().__init__(self._buffer, protocol)

    def reducer_override(self, obj: Any) -> Any:
        """Write a member of an enumeration as its class and value, whatever Python or a library would write."""
        return (type(obj), (obj._value_,)) if isinstance(obj, enum.Enum) else NotImplemented

    def dump(self, obj: Any) -> None:
        super().dump(obj)
        self._file.write(with_stored_names(self._buffer.getvalue()))


NAMING: Any = SimpleNamespace(__name__=__name__, Pickler=_Pickler)  # for `torch.save(pickle_module=…)`


def with_stored_names(pickled: bytes) -> bytes:
    """Return the pickle (protocol 2) with stored names of the classes that have one; others keep their paths."""
    parts, copied = [], 0
    for opcode, argument, position in pickletools.genops(pickled):
        if opcode.name != "GLOBAL" or position is None:
            continue
        module, _, name = str(argument).rpartition(" ")
        stored_name = name_of(f"{module}.{name}")
        if stored_name is not None:
            owner, layer = stored_name.split(".")
            parts += [pickled[copied:position], f"c{MARK}{owner}\n{layer}\n".encode()]
            copied = position + len(f"c{module}\n{name}\n".encode())
    return b"".join([*parts, pickled[copied:]])
