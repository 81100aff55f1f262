"""Every key of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from manual_tables import markdown
from manual_tables.fields import field_table, heading, models_in
from toolkit.recipe.tables import RecipeTable

TOP = "The top of the file"


def recipe() -> str:
    """A section for each table that a recipe may have, under the names that it has there."""
    places: dict[type[BaseModel], list[str]] = {RecipeTable: [TOP]}
    for place, model in _tables(RecipeTable):
        places.setdefault(model, []).append(place)
    titles = {model: " and ".join(names) for model, names in places.items()}
    return "\n\n".join(_section(model, titles[model], titles) for model in places)


def _section(model: type[BaseModel], title: str, titles: dict[type[BaseModel], str]) -> str:
    about = (model.__doc__ or "").partition(": ")[2] or (model.__doc__ or "")
    return f"{heading(2, title)}\n\n{markdown.paragraphs(_sentence(about))}\n\n{field_table(model, titles)}"


def _tables(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            place = _place(field.alias or name, field, above)
            yield place, inner
            yield from _tables(inner, place)


def _place(key: str, field: FieldInfo, above: str) -> str:
    if above:
        return f"{above} {key}"
    return f"[[{key}]]" if get_origin(field.annotation) is list else f"[{key}]"


def _sentence(about: str) -> str:
    return about[:1].upper() + about[1:]
