"""What the shipped techniques, run-wide plugins and runtimes do and take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache

from pydantic import BaseModel

from manual_tables import markdown
from manual_tables.fields import field_table, heading, models_in
from toolkit.hooks.doctor import Diagnosis, diagnose
from toolkit.hooks.loading import Plugin, Role, installed
from toolkit.sources import Source

DISTRIBUTION = "torch-optimization-toolkit "


def techniques() -> str:
    """A section for each technique."""
    return "\n\n".join(_sections("technique"))


def observers() -> str:
    """A section for each run-wide plugin."""
    return "\n\n".join(_sections("observer"))


def runtimes() -> str:
    """Return a section for each runtime."""
    return "\n\n".join(_sections("runtime"))


def unusable() -> str:
    """A section for the plugins that cannot be imported where the manual is built; nothing where there are none."""
    broken = [found for found in _shipped() if found.problem]
    lines = [f"- `{found.name}`: {markdown.text(found.problem)}" for found in broken]
    intro = (
        "Their params are missing from this copy of the manual, because they could not be imported where it was built."
    )
    return "\n".join(["## Not shown here", "", intro, "", *lines]) if lines else ""


@cache
def _shipped() -> tuple[Diagnosis, ...]:
    return tuple(diagnose(plugin for plugin in installed() if plugin.distribution.startswith(DISTRIBUTION)))


def _sections(role: Role) -> Iterator[str]:
    for found in _shipped():
        if role in found.usable:
            yield _section(found.name, found.usable[role])


def _section(name: str, plugin: Plugin) -> str:
    about = markdown.paragraphs(inspect.getdoc(plugin.module) or "")
    links = _inner(plugin.params_class, name) | {Source: "source"}
    tables = [_table(plugin.params_class, links)]
    for model, title in links.items():
        if model is not Source:
            tables += [f"{heading(4, title)}\n\n{_table(model, links)}"]
    return "\n\n".join([heading(3, name), about, *tables])


def _inner(params: type[BaseModel], name: str) -> dict[type[BaseModel], str]:
    return {
        model: f"{name} {key}"
        for key, field in params.model_fields.items()
        for model in models_in(field.annotation)
        if model is not Source
    }


def _table(params: type[BaseModel], links: dict[type[BaseModel], str]) -> str:
    return field_table(params, links) if params.model_fields else "It has no params."
