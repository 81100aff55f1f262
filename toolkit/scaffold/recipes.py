"""A first recipe for a model and data of the user's: commented, and tried before it is written."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import InputError, ToolkitError
from toolkit.hooks import loading as techniques
from toolkit.hooks.loading import Plugin
from toolkit.recipe.read import parse_recipe
from toolkit.recipe.shipped import shipped
from toolkit.runner.assembly import assemble
from toolkit.runner.rehearsal import Rehearsal, rehearse
from toolkit.scaffold.drafts import Draft, chain
from toolkit.scaffold.templates import render

WHOLE_CHAIN = "mnist"


@dataclass(frozen=True)
class RecipeRequest:
    """What the user asked for; sources are written relative to the folder of `output`, arguments as they are: TOML."""

    model: str
    data: str
    output: Path
    weights: str | None = None
    model_args: str = ""
    data_args: str = ""

    def text(self, stages: Sequence[Draft], left_out: dict[str, str] | None = None) -> str:
        """The recipe with these stages."""
        return render(
            "recipe.toml.j2",
            name=self.output.stem,
            file=self.output.name,
            chain=", then ".join(" with ".join([s.name, *(other.name for other in s.combined)]) for s in stages),
            model=_beside(self.model, self.output.parent),
            data=_beside(self.data, self.output.parent),
            model_args=self.model_args,
            data_args=self.data_args,
            weights=self.weights and _relative(self.weights, self.output.parent),
            epochs=5,
            stages=stages,
            left_out=left_out or {},
        )

    def rehearsed(self, stages: Sequence[Draft]) -> Rehearsal:
        """How the recipe with these stages goes; a `ToolkitError` where it does not."""
        return rehearse(parse_recipe(self.text(stages), str(self.output), self.output.parent.resolve()))


def new_recipe(request: RecipeRequest, names: Sequence[str] = ()) -> Rehearsal:
    """Write a recipe that chains the techniques `names`, by default those of the recipe `mnist`, as far as they work.

    Raises:
        InputError: the file exists, the model and the data do not fit, or no technique works on them.
    """
    if request.output.exists():
        raise InputError(f"{request.output} already exists; choose another --output, or delete it")
    loaded = [techniques.load(name) for name in names or _usual_techniques()]
    stages, left_out = chain(loaded), dict[str, str]()
    assemble(parse_recipe(request.text(stages), str(request.output), request.output.parent.resolve()))
    try:
        rehearsal = request.rehearsed(stages)
    except ToolkitError:
        left_out = _refusals(request, loaded)
        stages = chain([technique for technique in loaded if technique.name not in left_out])
        if not stages:
            raise InputError("no technique works on this model: " + "; ".join(left_out.values())) from None
        rehearsal = request.rehearsed(stages)
    _write(request.output, request.text(stages, left_out))
    return rehearsal


def _usual_techniques() -> list[str]:
    """The techniques that the shipped recipe of the whole chain names, by name."""
    stages = tomllib.loads(shipped()[WHOLE_CHAIN].read_text(encoding="utf-8"))["stages"]
    return sorted({step["technique"] for stage in stages for step in (stage, *stage.get("with", []))})


def _refusals(request: RecipeRequest, loaded: Sequence[Plugin]) -> dict[str, str]:
    """Why techniques do not work on the model, each tried alone."""
    refusals = {}
    for technique in loaded:
        try:
            request.rehearsed(chain([technique]))
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
    return f"{_relative(place, folder)}:{name}" if place.endswith(".py") else source


def _relative(path: str, folder: Path) -> str:
    """Return a path as seen from a folder, or an absolute path if they are on different drives of Windows."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return Path(os.path.abspath(path)).as_posix()
