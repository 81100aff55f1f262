"""A recipe file as a frozen `Recipe`; every mistake in it is found at once and named with its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from toolkit.errors import InputError, Problem, RecipeError
from toolkit.hooks import loading as techniques
from toolkit.hooks.loading import Plugin
from toolkit.params import Params
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.overrides import apply_overrides
from toolkit.recipe.problems import numbers_beyond_toml, printable, problems_of, readable
from toolkit.recipe.shipped import locate
from toolkit.recipe.stage_order import export_problems, sequence_problems
from toolkit.recipe.tables import ExportTable, MeasureTable, ModelTable, RecipeTable, StageTable, TechniqueTable
from toolkit.training import TrainingSettings

# Dotted keys nest without limit, and what writes and shows a recipe later is recursive.
DEEPEST = 100
TOO_DEEP = "is nested too deeply"
# A key of so many parts: reading it takes tomllib the square of their number, which soon is minutes.
ENDLESS_KEY = re.compile(r"(?:\.[\w-]+){1000}")


@dataclass(frozen=True)
class PluginUse:
    """A plugin as a recipe uses it: a technique in a stage, or an observer of the run, with its settings."""

    plugin: Plugin
    params: Params


@dataclass(frozen=True)
class Stage:
    """One row of the report: number (from 1; the baseline is 0), name, techniques, the row it starts from."""

    number: int
    name: str
    uses: tuple[PluginUse, ...] = ()
    start: int = 0
    finetune: TrainingSettings | None = None

    @property
    def label(self) -> str:
        """Number and name, as errors begin with them."""
        return f"stage {self.number} ({self.name})"

    @property
    def technique_names(self) -> str:
        """Its techniques with their distributions, as errors name them."""
        return " with ".join(str(use.plugin) for use in self.uses)


@dataclass(frozen=True)
class Export:
    """A model to be written in the files of a runtime: `name` of its row and folder, and the row that it exports."""

    name: str
    use: PluginUse
    start: int


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `table` is the file's content with all defaults, `stages` what it means."""

    table: RecipeTable
    stages: tuple[Stage, ...]
    observers: tuple[PluginUse, ...]
    origin: str
    exports: tuple[Export, ...] = ()

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.table.name

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return self.table.seed

    @property
    def model(self) -> ModelTable:
        """The network, and where its weights come from."""
        return self.table.model

    @property
    def data(self) -> DataTable:
        """Where the samples come from."""
        return self.table.data

    @property
    def measure(self) -> MeasureTable:
        """How rows are measured."""
        return self.table.measure

    @property
    def promises(self) -> Literal["stop", "warn"]:
        """What happens where a stage undoes what an earlier one achieved."""
        return self.table.promises

    @property
    def baseline(self) -> Stage:
        """The training of the baseline, as stage 0."""
        return Stage(0, "baseline", finetune=self.model.training)


def read_recipe(recipe: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a file, or a shipped recipe by name, with some values replaced; a `RecipeError` lists all mistakes.

    Args:
        recipe: a path, or the name of a shipped recipe.
        overrides: new values by place, such as `{"stages.1.params.sparsity": 0.9}`; stages count from 1.
    """
    path = locate(recipe)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors open a file with a mark of its encoding
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start + 1}") from error
    return parse_recipe(text, str(recipe), path.resolve().parent, path.stem, overrides)


def parse_recipe(
    text: str, origin: str, directory: Path, name: str = "recipe", overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Check the text of a recipe: `origin` is named in errors, relative files lie in `directory`."""
    content = _content(text, origin)
    overriding = apply_overrides(content, overrides or {})
    if _is_too_deep(content):
        raise _refusal(origin, [Problem("", TOO_DEEP)])
    content.setdefault("name", name)
    problems = [*overriding, *_across_stages(content.get("stages"), directory), *export_problems(content)]
    try:
        table = RecipeTable.model_validate(content, context={"directory": directory})
    except ValidationError as error:
        problems = [*problems_of(error, RecipeTable), *problems]
    told = {problem.place for problem in problems}
    problems += [problem for problem in numbers_beyond_toml(content) if problem.place not in told]
    if problems:
        raise _refusal(origin, problems)
    observers = tuple(PluginUse(techniques.load(plugin.name, "observer"), plugin.params) for plugin in table.plugins)
    stages = _stages(table.stages)
    return Recipe(table, stages, observers, origin, _exports(table.exports, stages))


def _refusal(origin: str, problems: Iterable[Problem]) -> RecipeError:
    return RecipeError(printable(origin), [readable(problem) for problem in problems])


def _content(text: str, origin: str) -> dict[str, Any]:
    try:
        text.encode()
        if ENDLESS_KEY.search(text):
            raise RecursionError
        content = tomllib.loads(text)
    except RecursionError:
        raise _refusal(origin, [Problem("", TOO_DEEP)]) from None
    except UnicodeEncodeError as error:
        raise _refusal(origin, [Problem("", f"is not text: {error.reason} at character {error.start + 1}")]) from None
    except ValueError as error:  # a TOMLDecodeError, or what Python says of a number of thousands of digits
        raise _refusal(origin, [Problem("", f"is not TOML: {_with_place(str(error), text)}")]) from None
    if not content:
        message = "is empty: a recipe needs [model], [data] and at least one [[stages]]"
        raise _refusal(origin, [Problem("", message)])
    return content


def _with_place(message: str, text: str) -> str:
    """What tomllib says, with a line and a column at the end of the document too, and in a reader's words."""
    last = text.rpartition("\n")[2]
    end = f"at the end: line {text.count(chr(10)) + 1}, column {len(last) + 1}"
    return message.replace("at end of document", end).replace("Cannot overwrite a value", "a key is given twice")


def _is_too_deep(content: Any) -> bool:
    level = [content]
    for _ in range(DEEPEST):
        level = [item for table in level for item in (table.values() if isinstance(table, dict) else table)]
        level = [item for item in level if isinstance(item, (dict, list))]
    return bool(level)


def _stages(tables: list[StageTable]) -> tuple[Stage, ...]:
    names = ["baseline", *(table.name or table.technique for table in tables)]
    return tuple(
        Stage(
            number,
            names[number],
            tuple(_use(each) for each in (table, *table.others)),
            number - 1 if table.start is None else names.index(table.start),
            table.finetune,
        )
        for number, table in enumerate(tables, start=1)
    )


def _use(table: TechniqueTable) -> PluginUse:
    return PluginUse(techniques.load(table.technique), table.params)


def _exports(tables: list[ExportTable], stages: tuple[Stage, ...]) -> tuple[Export, ...]:
    names = ["baseline", *(stage.name for stage in stages)]
    return tuple(
        Export(
            table.name or table.runtime,
            PluginUse(techniques.load(table.runtime, "runtime"), table.params),
            len(stages) if table.start is None else names.index(table.start),
        )
        for table in tables
    )


def _across_stages(tables: Any, directory: Path) -> list[Problem]:
    """Mistakes that no stage shows alone, among the stages that are valid alone."""
    if not isinstance(tables, list):
        return []
    stages: list[StageTable | None] = []
    for table in tables:
        try:
            stages.append(StageTable.model_validate(table, context={"directory": directory}))
        except ValidationError:
            stages.append(None)
    return sequence_problems(tables, stages)
