"""The fields of a pydantic model as the rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from manual_tables import markdown
from toolkit.hooks.manual import describe_field

HEADERS = ("key", "takes", "default", "description")


def field_table(model: type[BaseModel], links: Mapping[type, str]) -> str:
    """Key, type with range, default and description of every field; `links` has the section of each table in them."""
    return markdown.table(HEADERS, (_row(name, field, links) for name, field in model.model_fields.items()))


def _row(name: str, field: FieldInfo, links: Mapping[type, str]) -> list[str]:
    key, takes, _, description = describe_field(field.alias or name, field)
    return [markdown.code(key), _takes(takes, field, links), _default(field), markdown.text(description)]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models that a field of this type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def _takes(takes: str, field: FieldInfo, links: Mapping[type, str]) -> str:
    for model in models_in(field.annotation):
        takes = takes.replace(model.__name__.lower(), f"[{links[model]}](#{anchor(links[model])})")
    return takes.replace("table of any", "table").replace("any", "table").replace("|", r"\|")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        # A recipe without a name is given its file's before it is checked.
        return "" if field.annotation is str and "(default: " in (field.description or "") else "required"
    return "" if value is None or isinstance(value, BaseModel) else markdown.code(json.dumps(value))


def anchor(heading: str) -> str:
    """The target that `heading` writes before a section."""
    return "table-" + "-".join("".join(sign if sign.isalnum() else " " for sign in heading).split())


def heading(level: int, title: str) -> str:
    """A heading with a target of its own."""
    return f"({anchor(title)})=\n{'#' * level} {title}"
