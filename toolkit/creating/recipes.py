"""A first recipe for a model and data of the user's: commented, and tried before it is written."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic.fields import FieldInfo

from toolkit import techniques
from toolkit.assembly import assemble
from toolkit.creating.templates import render, toml
from toolkit.errors import InputError, ToolkitError
from toolkit.recipe import parse_recipe
from toolkit.rehearsal import Rehearsal, rehearse
from toolkit.techniques import Technique

OWN = "torch-optimization-toolkit "
COLUMN, WIDTH = 34, 120  # of the comments behind settings, and of lines


@dataclass(frozen=True)
class Draft:
    """A technique as the template shows it, with its default settings."""

    technique: Technique
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


@dataclass(frozen=True)
class Wish:
    """What the user asked for; sources are written relative to the folder of `output`."""

    model: str
    data: str
    output: Path
    weights: str | None = None

    def text(self, stages: Sequence[Draft], left_out: dict[str, str] | None = None) -> str:
        """The recipe with these stages."""
        return render(
            "recipe.toml.j2",
            name=self.output.stem,
            file=self.output.name,
            chain=", then ".join(" with ".join([s.name, *(other.name for other in s.others)]) for s in stages),
            model=_beside(self.model, self.output.parent),
            data=_beside(self.data, self.output.parent),
            weights=self.weights and os.path.relpath(self.weights, self.output.parent),
            epochs=5,
            stages=stages,
            left_out=left_out or {},
        )

    def rehearsed(self, stages: Sequence[Draft]) -> Rehearsal:
        """How the recipe with these stages goes; a `ToolkitError` where it does not."""
        return rehearse(parse_recipe(self.text(stages), str(self.output), self.output.parent.resolve()))


def new_recipe(wish: Wish, names: Sequence[str] = ()) -> Rehearsal:
    """Write a recipe that chains the techniques `names`, by default the toolkit's own, as far as they work here.

    Raises:
        InputError: the file exists, the model and the data do not fit, or no technique works on them.
    """
    if wish.output.exists():
        raise InputError(f"{wish.output} exists: take another --output, or delete it")
    loaded = [techniques.load(name) for name in names or _own_techniques()]
    stages, left_out = _chain(loaded), dict[str, str]()
    assemble(parse_recipe(wish.text(stages), str(wish.output), wish.output.parent.resolve()))
    try:
        rehearsal = wish.rehearsed(stages)
    except ToolkitError:
        left_out = _refusals(wish, loaded)
        stages = _chain([technique for technique in loaded if technique.name not in left_out])
        if not stages:
            raise InputError("no technique works on this model: " + "; ".join(left_out.values())) from None
        rehearsal = wish.rehearsed(stages)
    _write(wish.output, wish.text(stages, left_out))
    return rehearsal


def _own_techniques() -> list[str]:
    """The techniques that come with the toolkit and can be loaded."""
    found = []
    for plugin in techniques.installed():
        if plugin.distribution.startswith(OWN):
            try:
                found.append(techniques.load(plugin.name).name)
            except ToolkitError:  # a run-wide plugin, or one whose packages are not installed
                continue
    return found


def _chain(loaded: Sequence[Technique]) -> list[Draft]:
    """Stages that can follow each other: what only acts while training joins the first that is trained, what cannot be
    trained comes last."""
    drafts = [Draft(technique) for technique in loaded]
    joining = [draft for draft in drafts if draft.technique.params_class().needs_finetune]
    stages = sorted((draft for draft in drafts if draft not in joining), key=lambda draft: not draft.trained)
    if stages and stages[0].trained:
        return [Draft(stages[0].technique, tuple(joining)), *stages[1:]]
    return [*joining, *stages]


def _refusals(wish: Wish, loaded: Sequence[Technique]) -> dict[str, str]:
    """Why techniques do not work on the model, each tried alone."""
    refusals = {}
    for technique in loaded:
        try:
            wish.rehearsed(_chain([technique]))
        except ToolkitError as error:
            refusals[technique.name] = " ".join(str(error).split())
    return refusals


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def _beside(source: str, folder: Path) -> str:
    """A source that is relative to the working directory, relative to `folder`; other sources as they are."""
    place, _, name = source.rpartition(":")
    return f"{Path(os.path.relpath(place, folder)).as_posix()}:{name}" if place.endswith(".py") else source


def _setting(name: str, field: FieldInfo) -> Iterator[str]:
    """A setting that is commented out, with its default, and its description behind it and below."""
    default = toml(field.get_default(call_default_factory=True))
    about = textwrap.wrap(" ".join((field.description or "").split()), WIDTH - COLUMN - 2) or [""]
    yield f"{f'# {name} = {default}'.rstrip():<{COLUMN - 1}} # {about[0]}"
    yield from (f"#{'':<{COLUMN - 1}}# {line}" for line in about[1:])
