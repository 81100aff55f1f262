"""The tables of a recipe file: which keys each has, with types, ranges and defaults."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from toolkit.errors import ToolkitError, described
from toolkit.hooks import loading as techniques
from toolkit.params import Params, Table
from toolkit.recipe.data_table import DataTable
from toolkit.sources import Source
from toolkit.training import TrainingSettings

LONGEST_NAME_BYTES = 240  # file systems take 255; the number of a stage comes before its name


def _folder_name(name: str) -> str:
    """Refuse a name that is a path, or means something else to a file system."""
    if not re.fullmatch(r"\w[\w.+ -]{0,79}", name):
        raise ValueError(
            f"{name!r} cannot name a folder: take up to 80 letters, digits, spaces and _ . + -, a letter or digit first"
        )
    if (size_bytes := len(name.encode())) > LONGEST_NAME_BYTES:
        raise ValueError(f"{name!r} cannot name a folder: it takes {size_bytes} bytes of {LONGEST_NAME_BYTES}")
    return name


Name = Annotated[str, AfterValidator(_folder_name)]


class Nested(ValueError):
    """The errors of a table that is validated inside another one's validator."""

    def __init__(self, table: type[Table], error: ValidationError) -> None:
        super().__init__(str(error))
        self.table, self.error = table, error


class ModelTable(Source):
    """`[model]`: the network, and its weights or how to train it."""

    training: TrainingSettings | None = Field(default=None, description="trains the baseline here")

    @model_validator(mode="after")
    def _either(self) -> ModelTable:
        if self.training is not None and self.weights is not None:
            raise ValueError("has both weights and training: give one of them")
        if self.training is None and self.weights is None and ":" not in self.source:
            raise ValueError("has neither training nor weights: the baseline would be untrained")
        return self


class MeasureTable(Table):
    """`[measure]`: how the rows are measured."""

    batch_sizes: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, min_length=1, description="of the timed inferences; by default 1 and the data's"
    )
    budget: float = Field(default=20.0, gt=0, description="seconds for measuring all rows together")


class OutputTable(Table):
    """`[output]`: the files that models are left in."""

    packed: bool = Field(default=False, description="after each stage one file of as few bytes as it takes")
    half: list[str] = Field(default=[], description="packed: names of tensors, as patterns, rounded to float16")
    norms: bool = Field(default=False, description="packed: batch norms reduced to a scale and a shift")

    @model_validator(mode="after")
    def _is_of_use(self) -> OutputTable:
        if (self.half or self.norms) and not self.packed:
            raise ValueError("has half or norms, which are for packed models: give packed = true")
        if self.packed and find_spec("constriction") is None:
            raise ValueError("packed models need constriction: pip install 'torch-optimization-toolkit[packed]'")
        return self


class TechniqueTable(Table):
    """One technique with its settings."""

    role: ClassVar[techniques.Role] = "technique"

    technique: str = Field(description="the name of an installed technique")
    params: Any = Field(default={}, description="the technique's own settings")

    @field_validator("technique")
    @classmethod
    def _installed(cls, name: str) -> str:
        _load(name, cls.role)
        return name

    @field_validator("params")
    @classmethod
    def _valid(cls, params: Any, info: ValidationInfo) -> Params:
        return _params(params, info.data.get("technique"), cls.role, info)


class StageTable(TechniqueTable):
    """`[[stages]]`: one step of the chain, and one row of the report."""

    name: Name | None = Field(default=None, description="of the row; the technique's unless given")
    start: str | None = Field(
        default=None, alias="from", description="'baseline' or the name of an earlier stage to start from"
    )
    others: list[TechniqueTable] = Field(default=[], alias="with", description="more techniques in this stage")
    finetune: TrainingSettings | None = Field(default=None, description="trains the stage's result, once")

    @field_validator("name")
    @classmethod
    def _not_the_baseline(cls, name: str | None) -> str | None:
        if name == "baseline":
            raise ValueError("'baseline' is the name of row 0: choose another one")
        return name


class PluginTable(Table):
    """`[[plugins]]`: a plugin that observes the whole run."""

    role: ClassVar[techniques.Role] = "observer"

    name: str = Field(description="the name of an installed run-wide plugin")
    params: Any = Field(default={}, description="the plugin's own settings")

    @field_validator("name")
    @classmethod
    def _installed(cls, name: str) -> str:
        _load(name, cls.role)
        return name

    @field_validator("params")
    @classmethod
    def _valid(cls, params: Any, info: ValidationInfo) -> Params:
        return _params(params, info.data.get("name"), cls.role, info)


class ExportTable(Table):
    """`[[exports]]`: a model in the files of a runtime, and one row of the report."""

    role: ClassVar[techniques.Role] = "runtime"

    runtime: str = Field(description="name of an installed runtime")
    params: Any = Field(default={}, description="settings of the runtime")
    start: str | None = Field(
        default=None, alias="from", description="'baseline' or the name of the stage to export (default: the last one)"
    )
    name: Name | None = Field(default=None, description="row name and folder (default: the runtime's name)")

    @field_validator("runtime")
    @classmethod
    def _installed(cls, name: str) -> str:
        _load(name, cls.role)
        return name

    @field_validator("params")
    @classmethod
    def _valid(cls, params: Any, info: ValidationInfo) -> Params:
        return _params(params, info.data.get("runtime"), cls.role, info)


class RecipeTable(Table):
    """A whole recipe file."""

    name: Name = Field(description="of the run; the file's unless given")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of everything random, in each stage anew")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="where to train and measure")
    promises: Literal["stop", "warn"] = Field(
        default="stop", description="whether a stage that undoes what an earlier one achieved ends the run, or is noted"
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="of the processor; part of what makes runs equal"
    )
    model: ModelTable
    data: DataTable
    stages: list[StageTable] = Field(min_length=1)
    plugins: list[PluginTable] = Field(default=[])
    exports: list[ExportTable] = Field(default=[])
    measure: MeasureTable = Field(default=MeasureTable())
    output: OutputTable = Field(default=OutputTable())


def _load(name: str, role: techniques.Role) -> techniques.Plugin:
    try:
        return techniques.load(name, role)
    except ToolkitError as error:
        raise ValueError(str(error)) from error


def _params(params: Any, name: str | None, role: techniques.Role, info: ValidationInfo) -> Any:
    if name is None:  # the name is wrong, which is reported already
        return params
    table = _load(name, role).params_class
    try:
        made = table.model_validate(params, context=info.context)
        _ = made.replaces_model, made.trainable_after, made.needs_finetune  # what the order of the stages is checked by
        return made
    except ValidationError as error:
        raise Nested(table, error) from error
    except Exception as error:  # a validator of somebody else's that raises something other than ValueError
        raise ValueError(f"the check of '{name}' failed with {described(error)}") from error
