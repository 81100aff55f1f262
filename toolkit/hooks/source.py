"""What the source of a plugin says about it, read without importing the plugin or anything that it needs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import decode_source
from itertools import accumulate
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """The first paragraph of a module's docstring on one line, and the names of the hooks that it has."""

    summary: str = ""
    hooks: frozenset[str] = frozenset()


def read_source(module: str) -> Source:
    """Return docstring and hooks of the module with this dotted name; empty if its source cannot be read or parsed."""
    try:
        tree = ast.parse(_text(module))
    except Exception:  # of a finder or a file that is somebody else's: importing it says what is wrong
        return Source()
    return Source(first_paragraph(ast.get_docstring(tree)), frozenset(_hooks(tree, module.partition(".")[0])))


def first_paragraph(docstring: str | None) -> str:
    """Return the first paragraph of a docstring on one line; empty without one."""
    return " ".join((docstring or "").strip().partition("\n\n")[0].split())


def _text(module: str) -> str:
    spec = _spec(module)
    get_source = getattr(spec.loader, "get_source", None)
    if get_source is not None:
        return get_source(module) or ""
    return decode_source(Path(spec.origin or "").read_bytes())


def _spec(module: str) -> ModuleSpec:
    """Return where a module lies. Unlike `importlib.util.find_spec`, this does not import the packages around it."""
    path: Sequence[str] | None = None
    for name in accumulate(module.split("."), "{}.{}".format):
        specs = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next(found for found in specs if found is not None)
        path = spec.submodule_search_locations
    return spec


def _hooks(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(map(_marks_a_hook, node.decorator_list)):
            yield node.name
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] == package):
            yield from (alias.asname or alias.name for alias in node.names)


def _marks_a_hook(decorator: ast.expr) -> bool:
    marker = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(marker).rpartition(".")[2] == "hookimpl"
