"""Hints: losses that draw layers inside the student towards layers inside its teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

import toolkit
from toolkit_distillation.comparing import attention_loss, fitnets_loss, relational_loss
from toolkit_distillation.features import arranged, catching, evaluated, probe
from toolkit_distillation.teachers import Lesson, Teacher

# Maps the channels at each position to another number of channels; by the number of dimensions of features (N, C, …).
PROJECTIONS: dict[int, Any] = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}

COMPARED_BY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fitnets": fitnets_loss,
    "attention": attention_loss,
    "relational": relational_loss,
}


class Hint(toolkit.Params):
    """One layer of a teacher, one of the student, and how they are compared."""

    teacher: str = Field(min_length=1, description="path of a module of the teacher such as 'layer3.0.conv1'")
    student: str = Field(min_length=1, description="path of the module of the student that learns from it")
    loss: Literal["fitnets", "attention", "relational"] = Field(
        default="fitnets",
        description="compares values through a learned projection (fitnets), attention maps (attention), or relations "
        "between samples (relational)",
    )
    weight: float = Field(default=1.0, gt=0, le=1e6, description="weight of this hint, which is added to the loss")
    of: int = Field(default=1, ge=1, description="number of the teacher, if there are several")

    def __str__(self) -> str:
        return f"'{self.teacher}' to '{self.student}' by {self.loss}"


class Hints(nn.Module):
    """The loss of all hints; `projections` are trained along with the student.

    Args:
        hints: with paths that exist and features that can be compared.
        shapes: for each hint the shapes of the student's and the teacher's features.
    """

    def __init__(self, hints: Sequence[Hint], shapes: Sequence[tuple[torch.Size, torch.Size]]) -> None:
        super().__init__()
        self.hints = tuple(hints)
        self.projections = nn.ModuleList(
            PROJECTIONS[len(student)](student[1], teacher[1], *[1] * (len(student) > 2))
            if hint.loss == "fitnets"
            else nn.Identity()
            for hint, (student, teacher) in zip(hints, shapes, strict=True)
        )
        self._caught: tuple[nn.Module, dict[str, list[Any]]] | None = None

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[None]:
        """Catch the student's features in the pass inside; the loss must be computed inside, too."""
        with catching(student, {hint.student for hint in self.hints}) as caught:
            self._caught = student, caught
            try:
                yield
            finally:
                self._caught = None

    def forward(self, lessons: Sequence[Lesson | None]) -> Tensor:
        """Return the weighted sum over the hints."""
        weighted = [hint.weight * loss for hint, loss in zip(self.hints, self.losses(lessons), strict=True)]
        return torch.stack(weighted).sum()

    def losses(self, lessons: Sequence[Lesson | None]) -> list[Tensor]:
        """Return a scalar for each hint; teachers without a hint need no lesson."""
        features = self._features()
        return [self._loss(number, features, lessons) for number in range(len(self.hints))]

    def losses_after_cut(self, lessons: Sequence[Lesson | None]) -> list[Tensor | None]:
        """Return the same, but None where the student's layer has lost channels that the projection reads."""
        features = self._features()
        return [
            self._loss(number, features, lessons) if self._fits(number, features) else None
            for number in range(len(self.hints))
        ]

    def _features(self) -> dict[str, Tensor]:
        assert self._caught is not None, "features are caught by watching()"
        return arranged(*self._caught)

    def _fits(self, number: int, features: Mapping[str, Tensor]) -> bool:
        projection: Any = self.projections[number]
        is_learned = not isinstance(projection, nn.Identity)
        return not is_learned or projection.weight.shape[1] == features[self.hints[number].student].shape[1]

    def _loss(self, number: int, features: Mapping[str, Tensor], lessons: Sequence[Lesson | None]) -> Tensor:
        hint, lesson = self.hints[number], lessons[self.hints[number].of - 1]
        assert lesson is not None
        found = self.projections[number](features[hint.student])
        return COMPARED_BY[hint.loss](found, lesson.features[hint.teacher])


def make_hints(hints: Sequence[Hint], student: nn.Module, teachers: Sequence[nn.Module], data: toolkit.Data) -> Hints:
    """Return the hints for these models, tested on three samples; a `TechniqueError` lists every problem at once."""
    ours = probe(student, data, _each(hint.student for hint in hints), "the student")
    theirs = [
        probe(teacher, data, paths_of(hints, number), f"teacher {number}" if len(teachers) > 1 else "the teacher")
        for number, teacher in enumerate(teachers, start=1)
    ]
    problems = [problem for probed in (ours, *theirs) for problem in probed.problems]
    shapes = []
    for hint in hints:
        pair = ours.shapes.get(hint.student), theirs[hint.of - 1].shapes.get(hint.teacher)
        if pair[0] is not None and pair[1] is not None:
            shapes.append((pair[0], pair[1]))
            problems.extend(_incomparable(hint, *shapes[-1]))
    if problems:
        raise toolkit.TechniqueError("; ".join(problems))
    return Hints(hints, shapes).to(data.device)


def paths_of(hints: Iterable[Hint], number: int) -> list[str]:
    """Return the modules to watch in the teacher of this number; numbers start at 1."""
    return _each(hint.teacher for hint in hints if hint.of == number)


def distances(hints: Hints, student: nn.Module, teachers: Sequence[Teacher], data: toolkit.Data) -> list[float | None]:
    """Return the loss of each hint on one batch of the selection split, in eval mode.

    It is None where the student's layer has lost channels that the projection reads.
    """
    batch = next(iter(data.batches(data.selection_split)))
    with evaluated(student), hints.watching(student):
        data.task.forward(student, batch)
        lessons = [teacher(batch) if teacher.paths else None for teacher in teachers]
        return [None if loss is None else loss.item() for loss in hints.losses_after_cut(lessons)]


class Hinting(NamedTuple):
    """The hints of a training, their teachers, and the loss of each hint before the training."""

    hints: Hints
    teachers: list[Teacher]
    before: list[float | None]

    def note(self, student: nn.Module, data: toolkit.Data) -> toolkit.Note:
        """Return each hint with its loss before and after."""
        after = distances(self.hints, student, self.teachers, data)
        rows = [
            {**hint.model_dump(), "before": before, **({} if now is None else {"after": now})}
            for hint, before, now in zip(self.hints.hints, self.before, after, strict=True)
        ]
        return toolkit.Note(
            f"the losses of the hints on a batch of {data.selection_split}, before and after training", rows
        )


def _each(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(paths))


def _incomparable(hint: Hint, student: torch.Size, teacher: torch.Size) -> Iterator[str]:
    if hint.loss == "relational":
        return
    both = f"{hint}: features of {tuple(student[1:])} and {tuple(teacher[1:])} per sample"
    if len(student) != len(teacher):
        yield f"{both} differ in the number of dimensions: only 'relational' can compare them"
    elif hint.loss == "attention" and len(student) == 2:
        yield f"{both} have no positions to attend to; use 'fitnets' or 'relational'"
