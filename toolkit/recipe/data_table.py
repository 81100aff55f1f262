"""`[data]`: where the samples come from, how they are split, and the task that they set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from toolkit.errors import InputError
from toolkit.sources import Kind, Sourced, beside, check_arguments, directory_of, resolve
from toolkit.tasks import TASKS, Task

FOLDERS = ("image-folder",)  # built-in sources of which a relative root lies beside the recipe


class DataTable(Sourced):
    """`[data]`: where the samples come from."""

    kind: ClassVar[Kind] = "data"

    batch_size: int = Field(default=128, ge=1, description="samples a batch")
    task: str | None = Field(
        default=None,
        description=f"{', '.join(TASKS)}, or 'file.py:Task'; by default the source's, which is classification",
    )
    metrics: list[str] = Field(
        default=[], description="more metrics: sources of functions (outputs, batch) -> one value a sample"
    )
    validation: int | None = Field(
        default=None,
        ge=0,
        description="samples cut from train where the source has no validation split; 0 for none, "
        "by default a tenth of train and at most 5,000",
    )
    train_args: dict[str, Any] | None = Field(
        default=None, description="of a source that is a Dataset class: further arguments for the train split"
    )
    test_args: dict[str, Any] | None = Field(default=None, description="the same for the test split")
    transform: str | None = Field(
        default=None,
        description="of a source that is a Dataset class: the source of its transform; "
        "pictures of torchvision.datasets become tensors without one",
    )
    train_transform: str | None = Field(default=None, description="another transform for the train split")
    augment: str | None = Field(
        default=None,
        description="changes batches of inputs at random while training: affine, elastic, translation, or "
        "'file.py:function'; by default what the source says",
    )
    augment_args: dict[str, Any] = Field(default={}, description="keyword arguments of augment")

    @field_validator("args", "train_args", "test_args")
    @classmethod
    def _accepted(cls, args: Any, info: ValidationInfo) -> Any:
        from toolkit.recipe.dataset_class import is_dataset, known_arguments, placed

        source = info.data.get("source")
        if args is None or source is None:
            return args
        target = resolve(source, cls.kind)
        if is_dataset(target):
            known_arguments(target, args)
        elif info.field_name == "args":
            cls._checked(args, info)
        return placed(args, directory_of(info)) if is_dataset(target) or source in FOLDERS else args

    @field_validator("metrics")
    @classmethod
    def _callable(cls, metrics: list[str], info: ValidationInfo) -> list[str]:
        return [_placed(metric, info, "function") for metric in metrics]

    @field_validator("transform", "train_transform")
    @classmethod
    def _transforms(cls, transform: str | None, info: ValidationInfo) -> str | None:
        return transform and _placed(transform, info, "transform")

    @field_validator("task")
    @classmethod
    def _is_task(cls, task: str | None, info: ValidationInfo) -> str | None:
        if task is None:
            return None
        placed = beside(task, directory_of(info))
        found = resolve(placed, "task")
        if isinstance(found, type) and not issubclass(found, Task):
            raise ValueError(f"'{task}' is no task: make it a subclass of toolkit.Task")
        return placed

    @field_validator("augment")
    @classmethod
    def _augments(cls, augment: str | None, info: ValidationInfo) -> str | None:
        placed = augment and beside(augment, directory_of(info))
        if placed is not None:
            resolve(placed, "augmentation")
        return placed

    @field_validator("augment_args")
    @classmethod
    def _taken(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        augment = info.data.get("augment")
        if augment is not None:
            check_arguments(resolve(augment, "augmentation"), args, before=1)
        elif args and "augment" in info.data:
            raise ValueError("are of augment, which is not given")
        return args

    @model_validator(mode="after")
    def _splits(self) -> DataTable:
        self._calls()
        return self

    @property
    def code(self) -> list[str]:
        """The sources of Python code besides `source` itself that decide what the data is."""
        named = (self.task, self.transform, self.train_transform, self.augment)
        return [source for source in named if source is not None and ":" in source]

    def call(self) -> Any:
        """What the source returns; of a `Dataset` class one object for each split, by name."""
        calls = self._calls()
        if calls is None:
            return super().call()
        return {name: self._called(args) for name, args in calls.items()}

    def make_task(self) -> Task | None:
        """The task that the table names, if it does; an `InputError` says why it is none."""
        if self.task is None:
            return None
        try:
            made = resolve(self.task, "task")()
        except Exception as error:
            raise InputError(f"task '{self.task}' raised {type(error).__name__}: {error}") from error
        if not isinstance(made, Task):
            raise InputError(f"task '{self.task}' must make a toolkit.Task, not {type(made).__name__}")
        return made

    def make_augment(self) -> Callable[[Any], Any] | None:
        """What changes batches of inputs at random, if the table names it."""
        return None if self.augment is None else partial(resolve(self.augment, "augmentation"), **self.augment_args)

    def _calls(self) -> dict[str, dict[str, Any]] | None:
        """The arguments for each split of a `Dataset` class; None for any other source."""
        from toolkit.recipe.dataset_class import ONLY, arguments, is_dataset

        target = resolve(self.source, self.kind)
        if is_dataset(target):
            return arguments(target, self)
        given = [name for name in ONLY if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{given[0]} is for a source that is a Dataset class, and '{self.source}' is none")
        return None


def _placed(source: str, info: ValidationInfo, what: str) -> str:
    placed = beside(source, directory_of(info))
    if ":" not in placed:
        raise ValueError(f"'{source}' must be 'package.module:{what}' or 'file.py:{what}'")
    resolve(placed, "data")
    return placed
