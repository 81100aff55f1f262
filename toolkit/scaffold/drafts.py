"""The techniques of a new recipe, with their settings, in an order that works."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, get_args, get_origin

from pydantic.fields import FieldInfo

from toolkit.hooks.loading import Plugin
from toolkit.scaffold.templates import toml
from toolkit.sources import Source

COMMENT_COLUMN, LINE_WIDTH = 34, 120


@dataclass(frozen=True)
class Draft:
    """A technique with its default settings, in the form that the template needs."""

    technique: Plugin
    combined: tuple[Draft, ...] = ()

    @property
    def name(self) -> str:
        """Name of the technique in recipes."""
        return self.technique.name

    @property
    def summary(self) -> str:
        """First line of the technique's documentation."""
        return (self.technique.module.__doc__ or self.name).strip().partition("\n")[0]

    @property
    def trains(self) -> bool:
        """Whether the stage can train, as a `finetune` table asks for."""
        return self.technique.params_class().trainable_in_stage

    @property
    def models(self) -> dict[str, str]:
        """The description of every setting that may be a model and is none by default, by name."""
        fields = self.technique.params_class.model_fields.items()
        return {name: _description(field) for name, field in fields if _is_model(field)}

    def settings(self, example: str) -> list[str]:
        """Return commented lines for all settings: name, default and description.

        Args:
            example: a model as a table of TOML on one line, in place of a default that is no model.
        """
        fields = self.technique.params_class.model_fields.items()
        return [line for name, field in fields for line in _setting_lines(name, field, example)]


def chain(techniques: Sequence[Plugin], by_name: bool = False) -> list[Draft]:
    """Return one draft per stage, in an order that works.

    A technique that acts only during training joins the first stage with training. If the user named the techniques,
    one that takes a model gets a stage of its own instead, before all others, because it may replace the model.
    Techniques whose result cannot be trained come last, those whose own stage can train before the others.
    """
    drafts = [Draft(technique) for technique in techniques]
    first = [draft for draft in drafts if by_name and draft.models]
    rest = [draft for draft in drafts if draft not in first]
    joining = [draft for draft in rest if draft.technique.params_class().needs_finetune]
    stages = sorted((draft for draft in rest if draft not in joining), key=_untrainable)
    if stages and stages[0].trains:
        return [*first, Draft(stages[0].technique, tuple(joining)), *stages[1:]]
    return [*first, *joining, *stages]


def _untrainable(draft: Draft) -> tuple[bool, bool]:
    return not draft.technique.params_class().trainable_after, not draft.trains


def _is_model(field: FieldInfo) -> bool:
    """Return whether a field is a model, or a table that one is made from."""
    members = {get_args(each)[0] if get_origin(each) is Annotated else each for each in get_args(field.annotation)}
    return {Source, NoneType} <= members and all(isinstance(each, type) for each in members)


def _description(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _setting_lines(name: str, field: FieldInfo, example: str) -> Iterator[str]:
    """Yield a setting with its default, commented out, and its description on as many lines as it needs."""
    default = toml(field.get_default(call_default_factory=True))
    first = f"# {name} = {example if _is_model(field) else default}".rstrip()
    description = textwrap.wrap(_description(field), LINE_WIDTH - COMMENT_COLUMN - 2) or [""]
    if _is_model(field) or len(first) >= COMMENT_COLUMN:
        yield first
        first = "#"
    yield f"{first:<{COMMENT_COLUMN - 1}} # {description[0]}"
    yield from (f"#{'':<{COMMENT_COLUMN - 1}}# {line}" for line in description[1:])
