"""Python objects that a text names: `package.module:name` and `file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.errors import described, did_you_mean

FILE_MODULE = re.compile(r".*_py_[0-9a-f]{8}", re.DOTALL)  # module names from `import_file`


def object_named(source: str) -> Any:
    """Import what `package.module:name` or `file.py:name` names; a `ValueError` says why that fails."""
    place, _, name = source.rpartition(":")
    if place.endswith(".py") and not os.path.isfile(place):
        raise ValueError(f"'{place}' does not exist")
    try:
        module = import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import '{place}': {described(error)}") from error
    target: Any = module
    for part in name.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            public = [attribute for attribute in getattr(target, "__dict__", ()) if not attribute.startswith("_")]
            names = getattr(target, "__all__", None) or public
            hint = did_you_mean(part, names) if len(names) < 30 else ""
            raise ValueError(f"'{place}' has no '{name}'{hint}") from None
        except Exception as error:  # from a module that imports lazily
            raise ValueError(f"cannot import '{name}' from '{place}': {described(error)}") from error
    return target


def absolute_source(source: str, directory: Path) -> str:
    """Return the source with an absolute path, if it names a file; a relative one starts at `directory`."""
    place, _, name = source.rpartition(":")
    if not place.endswith(".py") or "\0" in place:
        return source
    return f"{os.path.realpath(directory / place)}:{name}"  # Path.resolve raises for circular links


def remedy_if_here(name: str, directory: Path) -> str:
    """Return what to write for a path that is missing in `directory` but exists where the user is, else nothing."""
    if os.path.exists(directory / name) or not os.path.exists(name):  # Path.exists raises if the name is too long
        return ""
    return f"; relative paths start beside the recipe, write {os.path.abspath(name)}"


def imported_files() -> list[str]:
    """Return the Python files that were imported by their path and still exist."""
    paths = [str(module.__file__) for name, module in list(sys.modules.items()) if FILE_MODULE.fullmatch(name)]
    return [path for path in paths if os.path.isfile(path)]


def is_below(file: str, folder: Path) -> bool:
    """Return whether a module's file lies in a folder or in one inside it."""
    # As text, because thousands are asked about, and a path is slow.
    return os.path.normpath(file).startswith(os.path.join(folder, ""))


@cache
def import_file(path: Path) -> ModuleType:
    """Execute a Python file once, as a separate module; meanwhile it can import the files next to it."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} does not exist")
    # The stem alone is not enough: `datasets.py` would replace a package with that name.
    name = f"{path.stem}_py_{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module
