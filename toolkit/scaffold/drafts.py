"""The techniques of a new recipe, with their settings, in an order that works."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from toolkit.hooks.loading import Plugin
from toolkit.scaffold.templates import toml

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
    def trainable(self) -> bool:
        """Whether the result of the technique can be trained."""
        return self.technique.params_class().trainable_after

    @property
    def settings(self) -> list[str]:
        """Commented lines for all settings: name, default and description."""
        fields = self.technique.params_class.model_fields.items()
        return [line for name, field in fields for line in _setting_lines(name, field)]


def chain(techniques: Sequence[Plugin]) -> list[Draft]:
    """Return one draft per stage, in an order that works.

    A technique that acts only during training joins the first stage with training. Techniques whose result cannot be
    trained come last.
    """
    drafts = [Draft(technique) for technique in techniques]
    joining = [draft for draft in drafts if draft.technique.params_class().needs_finetune]
    stages = sorted((draft for draft in drafts if draft not in joining), key=lambda draft: not draft.trainable)
    if stages and stages[0].trainable:
        return [Draft(stages[0].technique, tuple(joining)), *stages[1:]]
    return [*joining, *stages]


def _setting_lines(name: str, field: FieldInfo) -> Iterator[str]:
    """Yield a setting with its default, commented out, and its description on as many lines as it needs."""
    default = toml(field.get_default(call_default_factory=True))
    description = textwrap.wrap(" ".join((field.description or "").split()), LINE_WIDTH - COMMENT_COLUMN - 2) or [""]
    yield f"{f'# {name} = {default}'.rstrip():<{COMMENT_COLUMN - 1}} # {description[0]}"
    yield from (f"#{'':<{COMMENT_COLUMN - 1}}# {line}" for line in description[1:])
