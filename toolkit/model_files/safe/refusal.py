"""Why a file is not opened, by the names in it that are not known to be safe, and what to pass."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

from toolkit.importing import FILE_MODULE
from toolkit.stored_names import MARK

MAX_LISTED = 20  # names in a sentence
HASH_LENGTH = len("_py_12345678")
NEVER = {*sys.stdlib_module_names, "torch"} - {"__main__"}
PLAIN = re.compile(r"[\w.-]+")  # what a reader may copy into a shell


def refusal_to_build(source: str, names: Sequence[str]) -> str:
    """Return a sentence about a source that must not be called, and about the names that are not allowed either."""
    if source.partition(":")[0].partition(".")[0] in NEVER or not PLAIN.fullmatch(source.replace(":", ".", 1)):
        return f"it is built by '{source}', which is not known to be safe; ask where the file comes from"
    if any(not PLAIN.fullmatch(name) or "." not in name or name.partition(".")[0] in NEVER for name in names):
        return refusal(names)
    entries = list(dict.fromkeys([source, *entries_for(names)]))
    listed, options = ", ".join(f'"{entry}"' for entry in entries), " ".join(f"--allow {entry}" for entry in entries)
    advice = f"if you trust it, pass allow=[{listed}], or {options} on the command line"
    return f"it is built by '{source}', which is not known to be safe; {advice}"


def refusal(names: Sequence[str]) -> str:
    """Return a sentence about names that are not allowed, with the remedy; `names` is not empty."""
    for name in suspect(names):
        advice = "no saved network consists of it, so ask where the file comes from"
        return f"it needs '{name}', which is not known to be safe; {advice}"
    listed = ", ".join(f"'{name.removeprefix(MARK)}'" for name in names[:MAX_LISTED])
    if len(names) > MAX_LISTED:
        listed += f" and {len(names) - MAX_LISTED} more"
    are = "which is" if len(names) == 1 else "which are"
    return f"it needs {listed}, {are} not known to be safe; {_advice(names)}"


def suspect(names: Sequence[str]) -> list[str]:
    """Return the names of the standard library and of torch, which no user's class has, and texts that are no names."""
    return [name for name in names if name.partition(".")[0] in NEVER or not PLAIN.fullmatch(name.removeprefix(MARK))]


def _advice(names: Sequence[str]) -> str:
    objects = [name for name in names if not is_importable(name)]
    entries = entries_for(name for name in names if name not in objects)
    listed = ", ".join([*(name.rpartition(".")[2] for name in objects), *(f'"{entry}"' for entry in entries)])
    allow = f"if you trust {'it' if len(names) == 1 else 'them'}, pass allow=[{listed}]"
    if not objects:
        allow += f", or {' '.join(f'--allow {entry}' for entry in entries)} on the command line"
    techniques = sorted({name.removeprefix(MARK).partition(".")[0] for name in objects if name.startswith(MARK)})
    if not techniques:
        return allow
    missing = " and ".join(f"'{technique}'" for technique in techniques)
    return f"install or upgrade the technique {missing}, or, {allow}"


def is_importable(name: str) -> bool:
    """Return whether a source can name it; a class with a stored name or of the program is passed as an object."""
    return "." in name and not name.startswith((MARK, "__main__."))


def entries_for(names: Iterable[str]) -> list[str]:
    """Return entries of `allow` that cover dotted names: one class of a package or file, or all of it for several."""
    places: dict[str, list[str]] = {}
    for name in names:
        module, _, own = name.rpartition(".")
        places.setdefault(name.partition(".")[0], []).append(f"{_file(module)}:{own}")
    return [sources[0] if len(sources) == 1 else _file(place) for place, sources in places.items()]


def _file(module: str) -> str:
    """Return `nets.py` for the name that a file has as a module; other names as they are."""
    return f"{module[:-HASH_LENGTH]}.py" if FILE_MODULE.fullmatch(module) else module
