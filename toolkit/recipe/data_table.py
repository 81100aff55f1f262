"""The `[data]` table: source of the samples, their splits, and the task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from toolkit.errors import InputError
from toolkit.importing import absolute_source, remedy_if_here
from toolkit.sources import Kind, SourceTable, check_arguments, directory_of, resolve
from toolkit.tasks import TASKS, Task

FOLDERS = ("image-folder",)  # built-in sources whose relative root is next to the recipe


class DataTable(SourceTable):
    """The `[data]` table of a recipe."""

    kind: ClassVar[Kind] = "data"

    batch_size: int = Field(default=128, ge=1, description="samples per batch")
    task: str | None = Field(
        default=None,
        description=f"{', '.join(TASKS)}, or 'file.py:Task' (default: task of the source, usually classification)",
    )
    metrics: list[str] = Field(
        default=[], description="further metrics: sources of functions (outputs, batch) -> one value per sample"
    )
    validation: int | None = Field(
        default=None,
        ge=0,
        description="number of training samples used as the validation split if the source has none "
        "(default: a tenth of train, at most 5,000; 0 for none)",
    )
    train_args: dict[str, Any] | None = Field(
        default=None, description="further arguments for the train split (Dataset classes only)"
    )
    test_args: dict[str, Any] | None = Field(
        default=None, description="further arguments for the test split (Dataset classes only)"
    )
    transform: str | None = Field(
        default=None,
        description="source of the transform; images of torchvision.datasets become tensors by default "
        "(Dataset classes only)",
    )
    train_transform: str | None = Field(
        default=None, description="source of a different transform for the train split (Dataset classes only)"
    )
    augment: str | None = Field(
        default=None,
        description="random change of the inputs of each training batch: affine, elastic, translation, or "
        "'file.py:function' (default: augmentation of the source)",
    )
    augment_args: dict[str, Any] = Field(default={}, description="keyword arguments of `augment`")

    @field_validator("args", "train_args", "test_args")
    @classmethod
    def _accepted(cls, args: Any, info: ValidationInfo) -> Any:
        from toolkit.recipe.dataset_class import check_arguments_known, is_dataset, with_absolute_root

        source = info.data.get("source")
        if args is None or source is None:
            return args
        target = resolve(source, cls.kind)
        if is_dataset(target):
            check_arguments_known(target, args)
        elif info.field_name == "args":
            cls._checked(args, info)
        if source in FOLDERS and isinstance(root := args.get("root"), str):
            cls._not_elsewhere(root, directory_of(info))
        return with_absolute_root(args, directory_of(info)) if is_dataset(target) or source in FOLDERS else args

    @staticmethod
    def _not_elsewhere(root: str, directory: Path) -> None:
        if remedy := remedy_if_here(root, directory):
            raise ValueError(f"{directory / root} does not exist{remedy}")

    @field_validator("metrics")
    @classmethod
    def _callable(cls, metrics: list[str], info: ValidationInfo) -> list[str]:
        return [_absolute_callable(metric, info, "function") for metric in metrics]

    @field_validator("transform", "train_transform")
    @classmethod
    def _transforms(cls, transform: str | None, info: ValidationInfo) -> str | None:
        return transform and _absolute_callable(transform, info, "transform")

    @field_validator("task")
    @classmethod
    def _is_task(cls, task: str | None, info: ValidationInfo) -> str | None:
        if task is None:
            return None
        source = absolute_source(task, directory_of(info))
        target = resolve(source, "task")
        if isinstance(target, type) and not issubclass(target, Task):
            raise ValueError(f"'{task}' is not a task; make it a subclass of toolkit.Task")
        return source

    @field_validator("augment")
    @classmethod
    def _augments(cls, augment: str | None, info: ValidationInfo) -> str | None:
        source = augment and absolute_source(augment, directory_of(info))
        if source is not None:
            resolve(source, "augmentation")
        return source

    @field_validator("augment_args")
    @classmethod
    def _accepted_by_augment(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        augment = info.data.get("augment")
        if augment is not None:
            check_arguments(resolve(augment, "augmentation"), args, before=1)
        elif args and "augment" in info.data:
            raise ValueError("`augment_args` is set without `augment`")
        return args

    @model_validator(mode="after")
    def _splits(self) -> DataTable:
        self._calls()
        return self

    @property
    def code(self) -> list[str]:
        """Sources of Python code, in addition to `source`, that determine the data."""
        named = (self.task, self.transform, self.train_transform, self.augment)
        return [source for source in named if source is not None and ":" in source]

    def call(self) -> Any:
        """Return what the source returns; for a `Dataset` class, one object for each split, by name."""
        calls = self._calls()
        if calls is None:
            return super().call()
        return {name: self._called(args) for name, args in calls.items()}

    def make_task(self) -> Task | None:
        """Return the task that the table names, or None.

        Raises:
            InputError: it cannot be created, or is not a task.
        """
        if self.task is None:
            return None
        try:
            task = resolve(self.task, "task")()
        except Exception as error:
            raise InputError(f"task '{self.task}' raised {type(error).__name__}: {error}") from error
        if not isinstance(task, Task):
            raise InputError(f"task '{self.task}' must return a toolkit.Task, found {type(task).__name__}")
        return task

    def make_augment(self) -> Callable[[Any], Any] | None:
        """Return the augmentation that the table names, or None."""
        return None if self.augment is None else partial(resolve(self.augment, "augmentation"), **self.augment_args)

    def _calls(self) -> dict[str, dict[str, Any]] | None:
        """Return the arguments for each split of a `Dataset` class; None for any other source."""
        from toolkit.recipe.dataset_class import DATASET_CLASS_KEYS, arguments_by_split, is_dataset

        target = resolve(self.source, self.kind)
        if is_dataset(target):
            return arguments_by_split(target, self)
        ignored = [name for name in DATASET_CLASS_KEYS if getattr(self, name) is not None]
        if ignored:
            raise ValueError(f"`{ignored[0]}` requires a source that is a Dataset class; '{self.source}' is not one")
        return None


def _absolute_callable(source: str, info: ValidationInfo, noun: str) -> str:
    absolute = absolute_source(source, directory_of(info))
    if ":" not in absolute:
        raise ValueError(f"'{source}' must be 'package.module:{noun}' or 'file.py:{noun}'")
    resolve(absolute, "data")
    return absolute
