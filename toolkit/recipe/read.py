"""Reading and checking a recipe file: a frozen `Recipe`, or all mistakes at once, each with its place."""

from __future__ import annotations

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
from toolkit.recipe.problems import integers_beyond_toml, printable, problems_of, readable
from toolkit.recipe.shipped import locate
from toolkit.recipe.stage_order import export_problems, stage_order_problems
from toolkit.recipe.tables import ExportTable, MeasureTable, ModelTable, RecipeTable, StageTable, TechniqueTable
from toolkit.recipe.toml_text import TOO_DEEP, TomlError, is_too_deep, parse_toml
from toolkit.training import TrainingSettings


@dataclass(frozen=True)
class PluginUse:
    """A plugin as a recipe uses it: a technique in a stage, or an observer of the run, with its settings."""

    plugin: Plugin
    params: Params


@dataclass(frozen=True)
class Stage:
    """A stage of a recipe, and one row of its report.

    Attributes:
        number: number of its row; 0 is the baseline.
        name: name of its row.
        uses: techniques in the order written.
        start: number of the row whose model it starts from.
        finetune: settings of its training; None if it does not train.
    """

    number: int
    name: str
    uses: tuple[PluginUse, ...] = ()
    start: int = 0
    finetune: TrainingSettings | None = None

    @property
    def label(self) -> str:
        """Number and name, the start of an error message."""
        return f"stage {self.number} ({self.name})"

    @property
    def technique_names(self) -> str:
        """Techniques with their distributions, for error messages."""
        return " with ".join(str(use.plugin) for use in self.uses)


@dataclass(frozen=True)
class Export:
    """A model to be written in the files of a runtime: `name` of its row and folder, and the row that it exports."""

    name: str
    use: PluginUse
    start: int


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        table: content of the file, with all defaults.
        stages: stages with their plugins.
        observers: run-wide plugins.
        origin: path or name of the recipe, for error messages.
        exports: runtimes to which models are exported.
        is_rehearsal: whether the trainings are cut to a few steps, so that their results mean nothing.
    """

    table: RecipeTable
    stages: tuple[Stage, ...]
    observers: tuple[PluginUse, ...]
    origin: str
    exports: tuple[Export, ...] = ()
    is_rehearsal: bool = False

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.table.name

    @property
    def seed(self) -> int:
        """Seed of all random generators."""
        return self.table.seed

    @property
    def model(self) -> ModelTable:
        """The `[model]` table."""
        return self.table.model

    @property
    def data(self) -> DataTable:
        """The `[data]` table."""
        return self.table.data

    @property
    def measure(self) -> MeasureTable:
        """The `[measure]` table."""
        return self.table.measure

    @property
    def promises(self) -> Literal["stop", "warn"]:
        """Reaction to a stage that breaks a promise of an earlier one."""
        return self.table.promises

    @property
    def uses(self) -> list[PluginUse]:
        """All plugins of the stages and the exports."""
        return [*(use for stage in self.stages for use in stage.uses), *(export.use for export in self.exports)]

    @property
    def baseline(self) -> Stage:
        """Training of the baseline, as stage 0."""
        return Stage(0, "baseline", finetune=self.model.training)


def read_recipe(recipe: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        recipe: path of a file, or name of a shipped recipe.
        overrides: new values by place, e.g. `{"stages.1.params.sparsity": 0.9}`; stages count from 1.

    Raises:
        RecipeError: the recipe has mistakes; the message lists them all.
        InputError: the file does not exist or cannot be read.
    """
    path = locate(recipe)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid UTF-8: {error.reason} at byte {error.start + 1}") from error
    return parse_recipe(text, str(recipe), path.resolve().parent, path.stem, overrides)


def parse_recipe(
    text: str, origin: str, directory: Path, name: str = "recipe", overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Check the text of a recipe; errors begin with `origin`, relative paths start at `directory`."""
    content = _content(text, origin)
    overriding = apply_overrides(content, overrides or {})
    if is_too_deep(content):
        raise _recipe_error(origin, [Problem("", TOO_DEEP)])
    content.setdefault("name", name)
    problems = [*overriding, *_across_stages(content.get("stages"), directory), *export_problems(content)]
    try:
        table = RecipeTable.model_validate(content, context={"directory": directory})
    except ValidationError as error:
        problems = [*problems_of(error, RecipeTable), *problems]
    reported = {problem.place for problem in problems}
    problems += [problem for problem in integers_beyond_toml(content) if problem.place not in reported]
    if problems:
        raise _recipe_error(origin, problems)
    observers = tuple(PluginUse(techniques.load(plugin.name, "observer"), plugin.params) for plugin in table.plugins)
    stages = _stages(table.stages)
    return Recipe(table, stages, observers, origin, _exports(table.exports, stages))


def _recipe_error(origin: str, problems: Iterable[Problem]) -> RecipeError:
    return RecipeError(printable(origin), [readable(problem) for problem in problems])


def _content(text: str, origin: str) -> dict[str, Any]:
    try:
        content = parse_toml(text)
    except TomlError as error:
        raise _recipe_error(origin, [error.problem]) from None
    if not content:
        raise _recipe_error(origin, [Problem("", "is empty; add [model], [data] and at least one [[stages]]")])
    return content


def _stages(tables: list[StageTable]) -> tuple[Stage, ...]:
    names = ["baseline", *(table.name or table.technique for table in tables)]
    return tuple(
        Stage(
            number,
            names[number],
            tuple(_use(technique) for technique in (table, *table.others)),
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
    """Return the mistakes that concern several stages, among those that are valid by themselves."""
    if not isinstance(tables, list):
        return []
    stages: list[StageTable | None] = []
    for table in tables:
        try:
            stages.append(StageTable.model_validate(table, context={"directory": directory}))
        except ValidationError:
            stages.append(None)
    return stage_order_problems(tables, stages)
