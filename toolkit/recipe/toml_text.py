"""Parsing of a recipe's TOML, with errors that name the key and the line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from toolkit.errors import Problem
from toolkit.recipe.problems import dotted

# Dotted keys nest without limit, and the code that writes and prints recipes is recursive.
MAX_DEPTH = 100
TOO_DEEP = "is nested too deeply"
# tomllib reads a dotted key in quadratic time: thousands of parts take minutes.
VERY_LONG_KEY = re.compile(r"(?:\.[\w-]+){1000}")
# Python converts no decimal text of more than 4,300 digits, wherever it is.
VERY_LONG_INTEGER = re.compile(r"(?<![\w.+-])[+-]?[0-9][0-9_]{4299,}(?![\w.])")
MAX_STATEMENT_LINES = 50
CLASHES = ("Cannot overwrite", "Cannot declare", "Cannot mutate", "Cannot redefine", "Duplicate inline")
KEY = re.compile(r"""\s*(?:\[+\s*)?((?:"(?:[^"\\]|\\.)*"|'[^']*'|[^='"\[\]])+?)\s*(?:=|\])""")
WITHOUT_VALUE = re.compile(r"\s*([\w.-]+)\s*=\s*(?:#.*)?")
BARE_WORD = re.compile(r"=\s*(?!(?:true|false|inf|nan)\b)[A-Za-z]\w*\s*(?:#.*)?$")
DECIMAL_COMMA = re.compile(r"=\s*[+-]?\d+,\d")
MARKER = "_the_table_at_the_end_"


class TomlError(Exception):
    """A text is not TOML; `problem` says where and why."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(place, message)


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of a TOML text; raise a `TomlError` if it is not TOML, or is nested too deeply."""
    try:
        text.encode()
        if VERY_LONG_KEY.search(text):
            raise RecursionError
        content = _loads(text)
    except RecursionError:
        raise TomlError("", TOO_DEEP) from None
    except UnicodeEncodeError as error:
        raise TomlError("", f"is not valid text: {error.reason} at character {error.start + 1}") from None
    except tomllib.TOMLDecodeError as error:
        raise _with_place(str(error), text) from None
    return content


def is_too_deep(content: Any) -> bool:
    """Return whether tables and lists nest deeper than `MAX_DEPTH`."""
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [item for table in level for item in (table.values() if isinstance(table, dict) else table)]
        level = [item for item in level if isinstance(item, (dict, list))]
    return bool(level)


def _loads(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeEncodeError):
        raise
    except ValueError:  # Python's limit of digits, which hexadecimal integers do not have: checks find them by key
        return tomllib.loads(VERY_LONG_INTEGER.sub(lambda match: f"0x{'f' * len(match[0])}", text))


def _with_place(message: str, text: str) -> TomlError:
    """Return the error for a message of tomllib: with the key if it is defined twice, else with line and column."""
    lines = text.split("\n")
    found = re.search(r"at line (\d+)", message)
    number = int(found[1]) if found else len(lines)
    if message.startswith(CLASHES) and (clash := _clash(lines, number)):
        return clash
    line = lines[number - 1]
    if message.startswith("Invalid value") and (empty := WITHOUT_VALUE.fullmatch(line)):
        return TomlError("", f"is not TOML: '{empty[1]}' has no value in line {number}; write one, or remove the line")
    remedy = "; put text in quotes, and write truth values as true or false" if BARE_WORD.search(line) else ""
    remedy = "; write decimals with a point, such as 0.5" if DECIMAL_COMMA.search(line) else remedy
    end = f"at the end: line {len(lines)}, column {len(lines[-1]) + 1}"
    return TomlError("", f"is not TOML: {message.replace('at end of document', end)}{remedy}")


def _clash(lines: list[str], number: int) -> TomlError | None:
    """Return the error for a statement that ends at line `number` and contradicts an earlier line."""
    for start in range(number - 1, max(number - 1 - MAX_STATEMENT_LINES, -1), -1):
        content = _content("\n".join([*lines[:start], f"{MARKER} = 0"]))
        if content is not None:
            break
    else:
        return None
    statement = "\n".join(lines[start:number])
    key = KEY.match(statement)
    parts = _chain(_content(f"{key[1]} = 0")) if key else []
    if not parts:
        return None
    table = [] if statement.lstrip().startswith("[") else next(_paths_to_marker(content))
    place = dotted([*table, *parts])
    if _content(statement) is None:
        return TomlError(place, f"has a key that is defined twice (line {number}); remove one of the two")
    if _contains(content, [*table, *parts]):
        return TomlError(place, f"is defined twice, again in line {number}; remove one of the two")
    return TomlError(place, f"cannot be added in line {number}: an earlier line defines '{dotted([*table, parts[0]])}'")


def _content(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _chain(content: Any) -> list[str | int]:
    """Return the keys of tables that contain one key each: those of `a.b.c = 0`."""
    parts: list[str | int] = []
    while isinstance(content, dict) and content:
        key, content = next(iter(content.items()))
        parts.append(key)
    return parts


def _paths_to_marker(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[list[str | int]]:
    if isinstance(content, dict) and MARKER in content:
        yield [*path]
    elif isinstance(content, (dict, list)):
        for key, item in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _paths_to_marker(item, (*path, key))


def _contains(content: Any, parts: list[str | int]) -> bool:
    for part in parts:
        if isinstance(content, list) and content and isinstance(part, str):
            content = content[-1]  # `[stages.params]` adds to the last entry of `[[stages]]`
        if not isinstance(content, (dict, list)) or (isinstance(content, dict) and part not in content):
            return False
        content = content[part]  # type: ignore[index]  # a list has only been indexed by its own positions
    return True
