"""Techniques as a new recipe shows them, and the order in which they can follow each other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from toolkit.hooks.loading import Plugin
from toolkit.scaffold.templates import toml

COLUMN, WIDTH = 34, 120  # of the comments behind settings, and of lines


@dataclass(frozen=True)
class Draft:
    """A technique as the template shows it, with its default settings."""

    technique: Plugin
    others: tuple[Draft, ...] = ()

    @property
    def name(self) -> str:
        """By which recipes name it."""
        return self.technique.name

    @property
    def about(self) -> str:
        """The first line of its manual."""
        return (self.technique.module.__doc__ or self.name).strip().partition("\n")[0]

    @property
    def trained(self) -> bool:
        """Whether a stage of it can be trained."""
        return self.technique.params_class().trainable_after

    @property
    def settings(self) -> list[str]:
        """A commented line for every setting, with its default and what it means."""
        fields = self.technique.params_class.model_fields.items()
        return [line for name, field in fields for line in _setting(name, field)]


def chain(loaded: Sequence[Plugin]) -> list[Draft]:
    """Stages that can follow each other: what only acts while training joins the first that is trained, what cannot be
    trained comes last."""
    drafts = [Draft(technique) for technique in loaded]
    joining = [draft for draft in drafts if draft.technique.params_class().needs_finetune]
    stages = sorted((draft for draft in drafts if draft not in joining), key=lambda draft: not draft.trained)
    if stages and stages[0].trained:
        return [Draft(stages[0].technique, tuple(joining)), *stages[1:]]
    return [*joining, *stages]


def _setting(name: str, field: FieldInfo) -> Iterator[str]:
    """A setting that is commented out, with its default, and its description behind it and below."""
    default = toml(field.get_default(call_default_factory=True))
    about = textwrap.wrap(" ".join((field.description or "").split()), WIDTH - COLUMN - 2) or [""]
    yield f"{f'# {name} = {default}'.rstrip():<{COLUMN - 1}} # {about[0]}"
    yield from (f"#{'':<{COLUMN - 1}}# {line}" for line in about[1:])
