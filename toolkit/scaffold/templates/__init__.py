"""The templates, and how they are filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel


def render(template: str, **values: Any) -> str:
    """A template with its values; the filter `toml` writes a value as TOML does."""
    environment = Environment(
        loader=PackageLoader("toolkit.scaffold"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # nothing that a browser reads
    )
    environment.filters["toml"] = toml
    return environment.get_template(template).render(values)


def toml(value: Any) -> str:
    """A value on one line of TOML; nothing for None, which TOML cannot say."""
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
    except TypeError:  # a default of some other type, which a recipe cannot give either
        return ""
