"""Knowledge distillation: a student learns from the softened outputs of a teacher.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. The loss of a stage becomes
(1 − alpha) · loss + alpha · T² · KL(teacher ‖ student), both softened by the temperature T; where outputs are no
distribution, the `distance` of the task takes the place of the divergence: the squared difference in a regression.
With a `student` the stage replaces the model; without one the model itself learns from the teacher, which helps it to
recover from pruning: put distillation in the `with` of the pruning stage.

It does not help where the teacher is hardly better than the student alone, and it costs one pass of the teacher
over the training data (in every epoch, if inputs are augmented).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

import toolkit
from toolkit import masks

# Logits of all training samples are kept up to this size; beyond it the teacher runs in every epoch.
LARGEST_CACHE_BYTES = 2**30


class Params(toolkit.Params):
    """Who learns from whom, and how much."""

    student: toolkit.Source | None = Field(
        default=None,
        description="the model that takes the place of the present one; without it, the present one",
    )
    teacher: Literal["input", "reference"] | toolkit.Source = Field(
        default="input",
        description='the model as it enters the stage ("input"), the baseline ("reference"), or a source with weights',
    )
    temperature: float = Field(
        default=4.0, gt=0, le=1000, description="softens both outputs; higher shows more of the small ones"
    )
    alpha: float = Field(
        default=0.7, ge=0, le=1, description="share of the teacher in the loss; 0 trains the student alone"
    )

    @field_validator("teacher")
    @classmethod
    def _has_learnt(cls, teacher: str | toolkit.Source) -> str | toolkit.Source:
        if isinstance(teacher, toolkit.Source) and ":" not in teacher.source and teacher.weights is None:
            raise ValueError(f"a '{teacher.source}' without weights has nothing to teach: give it weights")
        return teacher

    @property
    def replaces_model(self) -> bool:
        """A student takes the model's place."""
        return self.student is not None

    @property
    def needs_finetune(self) -> bool:
        """Distillation is a loss: without training it does nothing, but for putting in a student that has learnt."""
        return self.student is None or self.student.weights is None


class Teacher(nn.Module):
    """Gives the teacher's logits for a batch: computed once per sample where inputs are not augmented."""

    logits: Tensor | None

    def __init__(self, model: nn.Module, data: toolkit.Data) -> None:
        super().__init__()
        self.model = model
        self.task = data.task
        # Computed for all samples in their stored order, so that they do not depend on how batches are drawn.
        self.register_buffer("logits", None if data.augmented else _all_logits(model, data))

    @torch.no_grad()
    def forward(self, batch: toolkit.Batch) -> Tensor:
        if self.logits is not None:
            return self.logits[batch.index]
        return self.task.logits(self.task.forward(self.model, batch)).float()


class DistillationLoss(nn.Module):
    """The loss it was given, with what techniques before it in the stage added, and the teacher's, weighted."""

    def __init__(self, inner: Any, teacher: Teacher, params: Params) -> None:
        super().__init__()
        self.inner, self.teacher, self.params = inner, teacher, params

    def forward(self, outputs: Any, batch: toolkit.Batch) -> Tensor:
        task = self.teacher.task
        soft = task.distance(task.logits(outputs), self.teacher(batch), batch, self.params.temperature)
        if self.params.alpha == 1:  # then the labels need not even make sense
            return soft
        return (1 - self.params.alpha) * self.inner(outputs, batch) + self.params.alpha * soft


@toolkit.hookimpl
def prepare(model: nn.Module, params: Params, data: toolkit.Data, reference: nn.Module) -> nn.Module | None:
    """The teacher, frozen and in eval mode; none where it has no share in the loss."""
    if params.alpha == 0:
        return None
    if params.teacher == "reference":
        teacher: nn.Module = masks.clone(reference)
    elif params.teacher == "input":
        teacher = masks.clone(model)
    else:
        teacher = params.teacher.build()
    return teacher.to(data.device).eval().requires_grad_(False)


@toolkit.hookimpl
def optimize(model: nn.Module, params: Params) -> nn.Module:
    """The student, or the model as it is."""
    return params.student.build() if params.student is not None else model


@toolkit.hookimpl
def finetune(
    params: Params, data: toolkit.Data, prepared: nn.Module | None, training: toolkit.Training
) -> toolkit.Training:
    """Add the teacher to the loss."""
    if prepared is None:
        return training
    return training.using(loss=DistillationLoss(training.loss, Teacher(prepared, data), params))


@toolkit.hookimpl
def measure(model: nn.Module, data: toolkit.Data, prepared: nn.Module | None) -> dict[str, float]:
    """`agreement`: the share of answers that teacher and student have in common; where the task has no answers that
    can be equal, `distance`: how far the student's outputs are from the teacher's."""
    if prepared is None:
        return {}
    split = "test" if data.test is not None else data.decisive
    found = [_likeness(model, prepared, data, batch) for batch in data.batches(split)]
    mean = sum(value for _, value, _ in found) / sum(weight for _, _, weight in found)
    return {found[0][0]: mean}


@torch.no_grad()
def _likeness(model: nn.Module, teacher: nn.Module, data: toolkit.Data, batch: toolkit.Batch) -> tuple[str, float, int]:
    """The name of what was found, its sum, and over how many."""
    task = data.task
    outputs = [task.forward(network, batch) for network in (model, teacher)]
    own, other = (task.answers(each) for each in outputs)
    if own is None or other is None:
        own, other = (task.logits(each).float() for each in outputs)
        return "distance", float(task.distance(own, other, batch)) * len(batch), len(batch)
    counted = task.counted(batch)
    same = own == other if counted is None else (own == other)[counted]
    return "agreement", float(same.sum()), same.numel()


def _all_logits(teacher: nn.Module, data: toolkit.Data) -> Tensor | None:
    """(N, …, C) float32 for all training samples, or None where they would take too much memory."""
    one = _logits(teacher, data, data.example(1))
    if one.numel() * 4 * data.samples("train") > LARGEST_CACHE_BYTES:
        return None
    return torch.cat([_logits(teacher, data, batch) for batch in data.batches("train")])


@torch.no_grad()
def _logits(model: nn.Module, data: toolkit.Data, batch: toolkit.Batch) -> Tensor:
    return data.task.logits(data.task.forward(model, batch)).float()
