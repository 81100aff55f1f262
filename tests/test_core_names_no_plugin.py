"""The core knows no plugin by name: neither its identifiers nor its strings hold the name of one that is shipped.

Docstrings may, because they give examples. No module is exempt.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from toolkit.hooks.loading import installed

CORE = sorted((Path(__file__).parents[1] / "toolkit").rglob("*.py"))
SHIPPED = [plugin for plugin in installed() if plugin.distribution.startswith("torch-optimization-toolkit ")]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
NAMING = ("id", "attr", "arg", "name", "asname", "module", "rest")


@cache
def words(text: str) -> str:
    """Text as words between spaces, so that `BiasCorrection`, `bias_correction` and `bias-correction` are the same."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return f" {' '.join(re.findall(r'[a-z0-9]+', spaced.lower()))} "


TERMS = {" channels "}  # names that the field uses for something else, too
NAMES = {words(name) for plugin in SHIPPED for name in (plugin.name, plugin.entry_point.value)} - TERMS


def said(source: str) -> Iterator[tuple[int, str]]:
    """Every identifier and every string of a module that is no docstring, with its line."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield line, node.value
        yield from ((line, name) for field in NAMING if isinstance(name := getattr(node, field, None), str))


def plugins_named(source: str) -> list[tuple[int, str]]:
    return [(line, text) for line, text in said(source) if any(name in words(text) for name in NAMES)]


def test_the_shipped_plugins_are_known_here() -> None:
    assert {" pruning ", " distillation ", " quantization ", " bias correction ", " toolkit pruning "} <= NAMES
    assert len(CORE) > 100


def test_the_contract_of_imports_has_every_plugin() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    forbidden = [
        contract["forbidden_modules"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "forbidden"
    ]
    assert forbidden == [sorted(plugin.entry_point.value for plugin in SHIPPED)]


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(CORE[0].parents[0])))
def test_the_core_names_no_plugin(path: Path) -> None:
    assert plugins_named(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import toolkit_pruning",
        "from toolkit_quantization.layers import x",
        "if name == 'distillation': pass",
        "f'{x} of pruning'",
        "class BiasCorrection: pass",
        "def fold(bias_correction): pass",
        "x.codebook",
        "from a import b as rewind",
        "call(profile=1)",
    ],
)
def test_a_plugin_that_is_named_is_found(source: str) -> None:
    assert plugins_named(source)


def test_docstrings_and_other_words_are_left_alone() -> None:
    assert not plugins_named(
        '"""As pruning does."""\ndef prune_cache():\n    """Unlike rewind."""\n    return "quantized"'
    )
