"""The source code of a runtime's hook `open`, as a script that needs neither the toolkit nor the plugin."""

from __future__ import annotations

import ast
import builtins
import inspect
import symtable
import textwrap
from collections.abc import Callable
from typing import Any

from toolkit.errors import TechniqueError


def portable_source(function: Callable[..., Any], plugin: str) -> str:
    """Return the source code of `function` without its decorators, checked to depend on nothing outside itself.

    Args:
        function: a hook, whose imports are inside it.
        plugin: name and distribution, for the error.

    Raises:
        TechniqueError: the function uses a name of its module, which a process without the plugin does not have.
    """
    source = textwrap.dedent(inspect.getsource(function))
    tree = ast.parse(source)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    _drop_annotations(definition)
    script = ast.unparse(tree)
    outside = sorted(name for name in _global_names(script) if not hasattr(builtins, name))
    if outside:
        raise TechniqueError(
            f"{plugin}: {function.__name__} uses '{outside[0]}' of its module, but runs in a process without it; "
            f"import or define it inside the function"
        )
    return _with_comments(source, definition, script)


def _drop_annotations(definition: ast.FunctionDef) -> None:
    """Remove annotations, which may name types that only the plugin's module imports."""
    definition.returns = None
    for argument in (*definition.args.posonlyargs, *definition.args.args, *definition.args.kwonlyargs):
        argument.annotation = None


def _global_names(script: str) -> set[str]:
    tables = [symtable.symtable(script, "open", "exec").get_children()[0]]
    names: set[str] = set()
    while tables:
        table = tables.pop()
        names |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        tables += table.get_children()
    return names


def _with_comments(source: str, definition: ast.FunctionDef, script: str) -> str:
    """Return the author's own text, with its comments, if only decorators were removed."""
    has_annotations = "->" in source.partition("\n")[0]
    lines = source.splitlines(keepends=True)
    body = "".join(lines[definition.body[0].lineno - 1 :])
    header = script.partition("\n")[0]
    return f"{header}\n{body}" if has_annotations or definition.body else script
