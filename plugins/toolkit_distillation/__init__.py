"""Knowledge distillation: a student learns from the softened outputs, and the inner features, of its teachers.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. The loss of a stage becomes
(1 − alpha) · loss + alpha · T² · KL(teacher ‖ student), both softened by the temperature T. For outputs that are not
distributions, the `distance` of the task replaces the divergence: in a regression, the squared difference. With a
`student` the stage replaces the model; without one the model itself learns from the teacher, which helps it recover
from pruning: put distillation in the `with` of the pruning stage.

`hints` add losses between layers inside the student and layers inside a teacher: as FitNets (Romero et al. 2015,
through a learned projection), as attention transfer (Zagoruyko and Komodakis 2017) or as relations between samples
(Park et al. 2019). Each of these losses has its own scale; the report shows it, so that you can choose the weights.
With several `teachers` the distances to all of them are averaged. `initialize` starts the student with the teacher's
tensors where they fit.

The student may be derived from the model: `{ from = "input", width = 0.5, depth = 0.5 }` keeps half the channels,
heads and hidden units of each layer, and half the residual blocks. With `initialize` their weights stay, as do zeros
that earlier stages promised; without it all weights are drawn anew, by `reset_parameters` of each layer.

`without_classes` leaves classes out of the transfer set, as section 3 of the paper does with the digit 3: the stage
trains on no sample of these classes, whatever its techniques add to the loss, and no batch norm sees one. Afterwards
the bias of such a class is far too low: `bias-correction` in the next stage raises it.

Distillation does not help if the teacher is hardly better than the student trained alone. It costs one pass of the
teacher over the training data, or one per epoch if inputs are augmented or there are hints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit_distillation.derivation import Derived, derive, draw_anew
from toolkit_distillation.hints import Hint, Hinting, Hints, distances, make_hints, paths_of
from toolkit_distillation.initialisation import copy_tensors
from toolkit_distillation.likeness import likeness
from toolkit_distillation.omission import samples_without
from toolkit_distillation.settings import Params
from toolkit_distillation.soft_targets import soft_loss
from toolkit_distillation.teachers import Lesson, Teacher, make_teacher

__all__ = ["Derived", "Hint", "Params", "Teacher", "finetune", "measure", "numbers", "optimize", "prepare"]

AGREEMENT = "fraction of samples for which student and teacher{} give the same answer"
DISTANCE = "mean distance of the student's outputs from the teacher's{}, as the task defines it"
numbers = {
    "agreement": toolkit.Number("agreement with the teacher", AGREEMENT.format(""), "fraction", "higher"),
    "agreement_*": toolkit.Number("agreement with teacher *", AGREEMENT.format(" *"), "fraction", "higher"),
    "distance": toolkit.Number("distance to the teacher", DISTANCE.format(""), better="lower"),
    "distance_*": toolkit.Number("distance to teacher *", DISTANCE.format(" *"), better="lower"),
    "samples_left_out": toolkit.Number("samples left out", "number of training samples that the stage left out"),
}


@dataclass
class Prepared:
    """The teachers, frozen and in eval mode, and what the report needs.

    `samples` are the positions in the train split to train on, None for all.
    """

    teachers: list[nn.Module]
    samples: Tensor | None = None
    copied: toolkit.Note | None = None
    derived: toolkit.Note | None = None
    hinting: Hinting | None = None


class DistillationLoss(nn.Module):
    """The weighted sum of the stage's loss so far and the losses against the teachers."""

    def __init__(
        self, inner: Any, task: toolkit.Task, teachers: Sequence[Teacher], hints: Hints | None, params: Params
    ) -> None:
        super().__init__()
        self.inner, self.task, self.hints, self.params = inner, task, hints, params
        self.teachers = nn.ModuleList(teachers)
        self.shares = params.shares or [1.0] * len(teachers)

    def forward(self, outputs: Any, batch: toolkit.Batch) -> Tensor:
        lessons = [teacher(batch) for teacher in self.teachers]
        loss = self._of_outputs(outputs, batch, lessons)
        return loss if self.hints is None else loss + self.hints(lessons)

    def _of_outputs(self, outputs: Any, batch: toolkit.Batch, lessons: Sequence[Lesson]) -> Tensor:
        alpha = self.params.alpha
        if alpha == 0:
            return self.inner(outputs, batch)
        soft = soft_loss(self.task, outputs, batch, lessons, self.shares, self.params.temperature)
        if alpha == 1:  # so that the labels do not even have to be valid
            return soft
        return (1 - alpha) * self.inner(outputs, batch) + alpha * soft


@toolkit.hookimpl
def prepare(model: nn.Module, params: Params, data: toolkit.Data, reference: nn.Module) -> Prepared | None:
    """Build the teachers, if anything is learned from them, and find the samples if classes are left out."""
    samples = samples_without(params.without_classes, model, data) if params.without_classes else None
    if params.alpha == 0 and not params.hints and (params.derived is not None or not params.initialize):
        return None if samples is None and params.derived is None else Prepared([], samples)
    return Prepared([make_teacher(choice, model, reference, data.device) for choice in params.choices], samples)


@toolkit.hookimpl
def optimize(model: nn.Module, params: Params, data: toolkit.Data, prepared: Prepared | None) -> nn.Module:
    """Return the student, or the model unchanged."""
    if params.student is None:
        return model
    if isinstance(params.student, Derived):
        return _derived(model, params.student, params, data, prepared)
    student = params.student.build()
    if params.initialize and prepared is not None:
        prepared.copied = copy_tensors(student, prepared.teachers[0], params.layers)
    return student


def _derived(
    model: nn.Module, choice: Derived, params: Params, data: toolkit.Data, prepared: Prepared | None
) -> nn.Module:
    student = model if params.initialize else masks.folded(model)
    note = derive(student, choice, data)
    if not params.initialize:
        draw_anew(student)
    if prepared is not None:
        prepared.derived = note
    return student


@toolkit.hookimpl
def finetune(
    model: nn.Module, params: Params, data: toolkit.Data, prepared: Prepared | None, training: toolkit.Training
) -> toolkit.Training:
    """Add the teachers and the hints to the loss, train the hints' projections too, and leave classes out."""
    if prepared is None:
        return training
    training = training.using(samples=prepared.samples)
    if params.alpha == 0 and not params.hints:
        return training
    numbered = enumerate(prepared.teachers, start=1)
    hints = make_hints(params.hints, model, prepared.teachers, data) if params.hints else None
    teachers = [Teacher(teacher, data, paths_of(params.hints, number)) for number, teacher in numbered]
    training = training.using(loss=DistillationLoss(training.loss, data.task, teachers, hints, params))
    if hints is None:
        return training
    prepared.hinting = Hinting(hints, teachers, distances(hints, model, teachers, data))
    return training.using(trained_along=hints.projections, around_step=hints.watching)


@toolkit.hookimpl
def measure(model: nn.Module, data: toolkit.Data, prepared: Prepared | None) -> dict[str, float | toolkit.Note]:
    """Return the `agreement` (or `distance`, see `likeness`) of student and teacher, and notes on hints.

    Several teachers are numbered: `agreement_1`, …
    """
    if prepared is None:
        return {}
    measured: dict[str, float | toolkit.Note] = {}
    if prepared.samples is not None:
        measured["samples_left_out"] = data.samples("train") - len(prepared.samples)
    for number, teacher in enumerate(prepared.teachers, start=1):
        name, value = likeness(model, teacher, data)
        measured[f"{name}_{number}" if len(prepared.teachers) > 1 else name] = value
    if prepared.derived is not None:
        measured["derived"] = prepared.derived
    if prepared.copied is not None:
        measured["initialized"] = prepared.copied
    if prepared.hinting is not None:
        measured["hints"] = prepared.hinting.note(model, data)
    return measured
