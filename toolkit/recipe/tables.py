"""The tables of a recipe file, with the type, range and default of every key."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from toolkit.errors import ToolkitError, described
from toolkit.hooks import loading as techniques
from toolkit.params import Params, Table
from toolkit.recipe.data_table import DataTable
from toolkit.sources import Source
from toolkit.training import TrainingSettings

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[. ]", re.IGNORECASE)  # by Windows, as names of files
MAX_NAME_BYTES = 240  # file systems allow 255, and the stage's number precedes its name


def _folder_name(name: str) -> str:
    """Check that a name can be the name of a folder."""
    if not re.fullmatch(r"\w[\w.+ -]{0,79}", name):
        raise ValueError(
            "must be up to 80 letters, digits, spaces and _ . + -, starting with a letter or digit, because it names a "
            f"folder, found {name!r}"
        )
    if sys.platform == "win32" and RESERVED.fullmatch(name):
        raise ValueError(f"cannot name a folder on Windows, found {name!r}; choose a different name")
    if (size_bytes := len(name.encode())) > MAX_NAME_BYTES:
        raise ValueError(f"must be at most {MAX_NAME_BYTES} bytes long, found {size_bytes} in {name!r}")
    return name


Name = Annotated[str, AfterValidator(_folder_name)]


class NestedError(ValueError):
    """A table that is validated inside another table's validator has mistakes."""

    def __init__(self, table: type[Table], error: ValidationError) -> None:
        super().__init__(str(error))
        self.table, self.error = table, error


class ModelTable(Source):
    """The `[model]` table: the network, with its weights or its training."""

    training: TrainingSettings | None = Field(
        default=None, description="training of the baseline, which starts from the `weights` if there are any"
    )

    @model_validator(mode="after")
    def _trained(self) -> ModelTable:
        if self.training is None and self.weights is None and ":" not in self.source:
            raise ValueError("has neither `training` nor `weights`; set one of them, or the baseline stays untrained")
        return self


class MeasureTable(Table):
    """The `[measure]` table: how rows are measured."""

    batch_sizes: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, min_length=1, description="batch sizes to time (default: 1 and the batch size of the data)"
    )
    budget: float = Field(default=20.0, gt=0, description="time to measure all rows together, in seconds")


class OutputTable(Table):
    """The `[output]` table: the files that models are written to."""

    packed: bool = Field(default=False, description="write the model of each stage as one compressed file")
    half: list[str] = Field(default=[], description="patterns of the tensors to round to float16 (packed only)")
    norms: bool = Field(default=False, description="reduce batch norms to a scale and a shift (packed only)")

    @model_validator(mode="after")
    def _packed_available(self) -> OutputTable:
        if (self.half or self.norms) and not self.packed:
            raise ValueError("`half` and `norms` require packed models; set packed = true")
        if self.packed and find_spec("constriction") is None:
            raise ValueError("`packed` requires constriction; run pip install 'torch-optimization-toolkit[packed]'")
        return self


class TechniqueTable(Table):
    """A technique with its params."""

    role: ClassVar[techniques.Role] = "technique"

    technique: str = Field(description="name of an installed technique")
    params: Any = Field(default={}, description="params of the technique")

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
    """One entry of `[[stages]]`, and one row of the report."""

    name: Name | None = Field(default=None, description="row name (default: name of the technique)")
    start: str | None = Field(
        default=None,
        alias="from",
        description="'baseline' or name of the earlier stage to start from (default: previous stage)",
    )
    others: list[TechniqueTable] = Field(default=[], alias="with", description="further techniques of this stage")
    finetune: TrainingSettings | None = Field(default=None, description="training of the stage's model")

    @field_validator("name")
    @classmethod
    def _not_the_baseline(cls, name: str | None) -> str | None:
        if name == "baseline":
            raise ValueError("'baseline' is the name of row 0; choose a different name")
        return name


class PluginTable(Table):
    """One entry of `[[plugins]]`: a plugin that observes the whole run."""

    role: ClassVar[techniques.Role] = "observer"

    name: str = Field(description="name of an installed run-wide plugin")
    params: Any = Field(default={}, description="params of the plugin")

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

    name: Name = Field(description="name of the run (default: name of the file)")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of all random generators, set again for each stage")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="device to train and measure on")
    promises: Literal["stop", "warn"] = Field(
        default="stop",
        description="reaction to a stage that breaks a promise of an earlier one: stop the run, or note it in the row",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="number of CPU threads; runs repeat bit for bit only with the same number",
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
    if name is None:  # already reported
        return params
    table = _load(name, role).params_class
    try:
        validated = table.model_validate(params, context=info.context)
        # Properties of a third party may raise too; `stage_order` uses them later.
        _ = validated.replaces_model, validated.needs_finetune
        _ = validated.trainable_after, validated.trainable_in_stage
        return validated
    except ValidationError as error:
        raise NestedError(table, error) from error
    except Exception as error:  # from a plugin's validator or property
        raise ValueError(f"cannot be checked: '{name}' raised {described(error)}") from error
