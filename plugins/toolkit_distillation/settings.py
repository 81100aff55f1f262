"""The settings of distillation, and which of them contradict each other."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

import toolkit
from toolkit_distillation.derivation import Derived, Student
from toolkit_distillation.hints import Hint
from toolkit_distillation.teachers import Choice, require_learnt


class Params(toolkit.Params):
    """Which student learns from which teachers, and what."""

    student: Student = Field(
        default=None,
        description="model that replaces the present one (default: the present one learns): a source, or "
        '{ from = "input", width = 0.5, depth = 0.5 } for a smaller one of the same kind',
    )
    teacher: Choice | None = Field(
        default=None,
        description='the model at the start of the stage ("input", the default), the baseline ("reference"), or a '
        "source with weights",
    )
    teachers: list[Choice] = Field(default=[], max_length=100, description="several teachers, instead of `teacher`")
    shares: list[Annotated[float, Field(gt=0, le=1e6)]] = Field(
        default=[],
        description="share of each of the `teachers` in the soft targets, in their order (default: equal)",
    )
    temperature: float = Field(
        default=4.0,
        gt=0,
        le=1000,
        description="softens the outputs of both; a higher one gives more weight to small probabilities",
    )
    alpha: float = Field(
        default=0.7, ge=0, le=1, description="share of the teacher's outputs in the loss; 0 for the labels alone"
    )
    hints: list[Hint] = Field(
        default=[], max_length=1000, description="layers of the student that learn from layers of the teacher"
    )
    initialize: bool = Field(
        default=False,
        description="start the student with the (first) teacher's tensors where name and shape agree; "
        "a derived student keeps the weights of what stays, and draws them anew otherwise",
    )
    layers: dict[str, str] = Field(
        default={},
        description="initialize: modules of the student that start as modules of other names in the teacher, such as "
        '{ "layers.1" = "layers.2" }',
    )

    without_classes: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        description="classes whose samples the stage does not train on; the student learns them from the teacher alone",
    )

    @field_validator("without_classes")
    @classmethod
    def _each_once(cls, classes: list[int]) -> list[int]:
        twice = next((number for number in classes if classes.count(number) > 1), None)
        if twice is not None:
            raise ValueError(f"class {twice} is listed twice")
        return classes

    @field_validator("teacher")
    @classmethod
    def _has_learnt(cls, teacher: Choice | None) -> Choice | None:
        if teacher is not None:
            require_learnt(teacher)
        return teacher

    @field_validator("teachers")
    @classmethod
    def _have_learnt(cls, teachers: list[Choice]) -> list[Choice]:
        for teacher in teachers:
            require_learnt(teacher)
        return teachers

    @model_validator(mode="after")
    def _agree(self) -> Params:
        if self.teacher is not None and self.teachers:
            raise ValueError("teacher and teachers are both set; put all of them into teachers")
        if self.shares and len(self.shares) != len(self.teachers):
            raise ValueError(
                f"there are {len(self.shares)} shares for {len(self.teachers)} teachers; give one per teacher"
            )
        if self.initialize and (self.student is None or self.is_trained):
            raise ValueError("initialize needs a student that has no weights of its own")
        if self.layers and self.derived is not None:
            raise ValueError("layers only matters for a student with a source, found a derived one; leave layers out")
        if self.layers and not self.initialize:
            raise ValueError("layers only matters for initialize; set initialize = true, or leave layers out")
        return self

    @model_validator(mode="after")
    def _every_hint_has_its_teacher(self) -> Params:
        known = len(self.choices)
        for number, hint in enumerate(self.hints, start=1):
            if hint.of > known:
                raise ValueError(f"hint {number} is of teacher {hint.of}, but there {_is_or_are(known)}")
        if self.alpha == 0 and known > 1:
            idle = sorted(set(range(1, known + 1)) - {hint.of for hint in self.hints})
            if idle:
                raise ValueError(f"teacher {idle[0]} teaches nothing: alpha is 0, and no hint is of it")
        return self

    @property
    def choices(self) -> list[Choice]:
        """All teachers."""
        return self.teachers or [self.teacher or "input"]

    @property
    def derived(self) -> Derived | None:
        """How the student is derived from the model, if it is."""
        return self.student if isinstance(self.student, Derived) else None

    @property
    def is_trained(self) -> bool:
        """Whether the student has weights of its own."""
        return isinstance(self.student, toolkit.Source) and self.student.weights is not None

    @property
    def replaces_model(self) -> bool:
        """True with a student, which replaces the model, unless it is what was kept of it."""
        return self.student is not None and not (self.derived is not None and self.initialize)

    @property
    def needs_finetune(self) -> bool:
        """True unless all the stage does is insert a student that is already trained: distillation is a loss."""
        says_how_to_train = bool(self.hints or self.without_classes)
        return not self.is_trained or says_how_to_train


def _is_or_are(count: int) -> str:
    return "is only one" if count == 1 else f"are {count}"
