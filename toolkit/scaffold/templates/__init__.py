"""Templates of files, and the function that fills them in."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel


def render(template: str, **values: Any) -> str:
    """Return a template filled in with values; its filter `toml` writes a value as TOML."""
    environment = Environment(
        loader=PackageLoader("toolkit.scaffold"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # no HTML
    )
    environment.filters["toml"] = toml
    return environment.get_template(template).render(values)


def inline_table(text: str | None) -> dict[str, Any]:
    """Return a table of TOML on one line, such as `{ size = 32 }`, as a dictionary; no text is an empty table.

    Raises:
        ValueError: the text is anything else; says why.
    """
    values = tomllib.loads(f"args = {text or '{}'}")
    if not isinstance(values["args"], dict) or len(values) > 1 or "\n" in (text or ""):
        raise ValueError("it must be one table on one line")
    return dict(values["args"])


def toml(value: Any) -> str:
    """Return a value on one line of TOML, or an empty string if TOML has no such value."""
    if value is None:
        return ""
    if isinstance(value, BaseModel):
        return toml(value.model_dump(by_alias=True, exclude_none=True))
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    try:
        return tomli_w.dumps({"v": value}).partition("=")[2].strip()
    except TypeError:  # a type that TOML has not
        return ""
