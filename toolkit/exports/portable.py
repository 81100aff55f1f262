"""The source code of a runtime's hook `open`, as a script that needs neither the toolkit nor the plugin."""

from __future__ import annotations

import ast
import builtins
import symtable
import textwrap

from toolkit.errors import TechniqueError


def portable_source(source: str, plugin: str) -> str:
    """Return the source code of a function without its decorators, checked to depend on nothing outside itself.

    Args:
        source: of a hook, whose imports are inside it, as its file has it.
        plugin: name and distribution, for the error.

    Raises:
        TechniqueError: there is no source of a function, or it uses a name of its module, which a process without the
            plugin does not have.
    """
    source = textwrap.dedent(source)
    tree = _parsed(source)
    definition = tree.body[0] if tree.body else None
    if not isinstance(definition, ast.FunctionDef):
        raise TechniqueError(f"{plugin}: the source code of open cannot be read; define it in a Python file with `def`")
    definition.decorator_list = []
    _drop_annotations(definition)
    script = ast.unparse(tree)
    outside = sorted(name for name in _global_names(script) if not hasattr(builtins, name))
    if outside:
        raise TechniqueError(
            f"{plugin}: {definition.name} uses '{outside[0]}' of its module, but runs in a process without it; "
            f"import or define it inside the function"
        )
    return _with_comments(source, definition, script)


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # the file was edited between the import and the reading, or it is a part of an expression
        return ast.Module([], [])


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
