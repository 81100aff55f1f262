"""A first recipe for a model and data of the user's: commented, and tried before it is written."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from toolkit.errors import InputError, ToolkitError
from toolkit.hooks import loading as techniques
from toolkit.hooks.loading import Plugin
from toolkit.recipe.data_table import FOLDERS
from toolkit.recipe.read import Recipe, parse_recipe
from toolkit.recipe.shipped import shipped
from toolkit.runner.assembly import assemble
from toolkit.runner.rehearsal import Rehearsal, rehearse
from toolkit.scaffold.drafts import Draft, chain
from toolkit.scaffold.messages import each_once
from toolkit.scaffold.place import check_place, write_new
from toolkit.scaffold.suggestions import Suggestions, batch_size_of, suggestions_for
from toolkit.scaffold.templates import inline_table, render, toml
from toolkit.scaffold.used_model import example_of

WHOLE_CHAIN = "mnist"
log = logging.getLogger("toolkit")


@dataclass(frozen=True)
class RecipeRequest:
    """What the user asked for; sources are written relative to the folder of `output`, arguments as they are: TOML."""

    model: str
    data: str
    output: Path
    weights: str | None = None
    model_args: str = ""
    data_args: str = ""
    suggestions: Suggestions = field(default_factory=Suggestions)

    def text(self, stages: Sequence[Draft], left_out: dict[str, str] | None = None) -> str:
        """Return the recipe with these stages."""
        model = _beside(self.model, self.output.parent)
        return render(
            "recipe.toml.j2",
            name=self.output.stem,
            file=self.output.name,
            chain=", then ".join(" with ".join([s.name, *(other.name for other in s.combined)]) for s in stages),
            model=model,
            example=example_of(self.model, model, self.model_args),
            data=_beside(self.data, self.output.parent),
            model_args=self.model_args,
            data_args=self.data_args,
            weights=self.weights and _relative(self.weights, self.output.parent),
            suggestions=self.suggestions,
            stages=stages,
            left_out=left_out or {},
        )

    def draft(self, stages: Sequence[Draft]) -> Recipe:
        """Return the checked recipe with these stages; a `RecipeError` that lists what is wrong with it."""
        return parse_recipe(self.text(stages), str(self.output), self.output.parent.resolve())

    def rehearsed(self, stages: Sequence[Draft]) -> Rehearsal:
        """Return how the recipe with these stages goes; a `ToolkitError` where it does not."""
        return rehearse(self.draft(stages))


@dataclass(frozen=True)
class NewRecipe:
    """A recipe that was written: how its rehearsal went, and what the user may want to fill in."""

    rehearsal: Rehearsal
    choices: tuple[str, ...]


def new_recipe(request: RecipeRequest, names: Sequence[str] = ()) -> NewRecipe:
    """Write a recipe that chains the techniques `names`, by default those of the recipe `mnist`, as far as they work.

    Raises:
        InputError: the file cannot be written, the model and the data do not fit, or no technique works on them; the
            message lists everything that was found.
    """
    request = replace(request, data_args=_beside_root(request))
    loaded = _loaded(request, names)
    with each_once(log):
        request = _suited(request, chain(loaded, bool(names)))
        return _tried_and_written(request, loaded, bool(names))


def _loaded(request: RecipeRequest, names: Sequence[str]) -> list[Plugin]:
    """Return the techniques; an `InputError` lists all that is wrong with the place, the names and the arguments."""
    problems, loaded = [], list[Plugin]()
    try:
        check_place(request.output)
    except InputError as error:
        problems.append(str(error))
        request = replace(request, output=Path("recipe.toml"))  # files are found from there, too
    for name in dict.fromkeys(names or _usual_techniques()):
        try:
            loaded.append(techniques.load(name))
        except ToolkitError as error:
            problems.append(str(error))
    try:
        request.draft(chain(loaded, bool(names)) or chain([techniques.load(name) for name in _usual_techniques()]))
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return loaded


def _suited(request: RecipeRequest, stages: Sequence[Draft]) -> RecipeRequest:
    """Return the request with the suggestions for its data and its model, which are built and compared."""
    batch_size = batch_size_of(request.draft(stages).data)
    request = replace(request, suggestions=Suggestions(batch_size))
    recipe = request.draft(stages)
    data = assemble(recipe).data
    return replace(request, suggestions=suggestions_for(recipe, data, batch_size, request.data_args))


def _tried_and_written(request: RecipeRequest, loaded: Sequence[Plugin], by_name: bool) -> NewRecipe:
    """Rehearse the techniques, at first all together, leave out those that fail alone, and write the rest."""
    stages, left_out = chain(loaded, by_name), dict[str, str]()
    try:
        rehearsal = request.rehearsed(stages)
    except ToolkitError:
        left_out = _refusals(request, loaded)
        stages = chain([technique for technique in loaded if technique.name not in left_out], by_name)
        if not stages:
            reasons = dict.fromkeys(left_out.values())
            raise InputError("no technique works on this model: " + "; ".join(reasons)) from None
        rehearsal = request.rehearsed(stages)
    write_new(request.output, request.text(stages, left_out))
    return NewRecipe(rehearsal, tuple(_choices(stages) if by_name else ()))


def _usual_techniques() -> list[str]:
    """Return the techniques that the shipped recipe of the whole chain names, by name."""
    stages = tomllib.loads(shipped()[WHOLE_CHAIN].read_text(encoding="utf-8"))["stages"]
    return sorted({step["technique"] for stage in stages for step in (stage, *stage.get("with", []))})


def _refusals(request: RecipeRequest, loaded: Sequence[Plugin]) -> dict[str, str]:
    """Return why techniques do not work on the model, each tried alone."""
    refusals = {}
    for technique in loaded:
        try:
            request.rehearsed(chain([technique]))
        except ToolkitError as error:
            refusals[technique.name] = " ".join(str(error).split())
    return refusals


def _choices(stages: Sequence[Draft]) -> list[str]:
    """Return a sentence for every model that a technique may take and the recipe leaves open."""
    return [
        f"stages.{number}.params.{name} is not set; fill in its line to set it: {description}"
        for number, stage in enumerate(stages, start=1)
        for name, description in stage.models.items()
    ]


def _beside_root(request: RecipeRequest) -> str:
    """Return the arguments of the data, with a root that is relative to the working directory, as all sources are."""
    args = inline_table(request.data_args)
    root = args.get("root")
    if request.data not in FOLDERS or not isinstance(root, str) or request.output.parent.resolve() == Path.cwd():
        return request.data_args
    path = root if os.path.isabs(root) else _relative(root, request.output.parent)
    return toml({**args, "root": path})


def _beside(source: str, folder: Path) -> str:
    """Return a source that is relative to the working directory, relative to `folder`; other sources as they are."""
    place, _, name = source.rpartition(":")
    return f"{_relative(place, folder)}:{name}" if place.endswith(".py") else source


def _relative(path: str, folder: Path) -> str:
    """Return a path as seen from a folder, or an absolute path if they are on different drives of Windows."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return Path(os.path.abspath(path)).as_posix()
