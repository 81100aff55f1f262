"""Teachers: frozen models, and what they output for a batch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit.training import autocast, use_fast_layout
from toolkit_distillation.features import arranged, catching

# Logits of all training samples are kept up to this size; beyond it the teacher runs in every epoch.
MAX_CACHE_BYTES = 2**30

Choice: TypeAlias = Literal["input", "reference"] | toolkit.Source


class Lesson(NamedTuple):
    """A teacher's outputs for a batch: logits (N, …, C) in float32, and features (N, C, …) by path."""

    logits: Tensor
    features: dict[str, Tensor]


class Teacher(nn.Module):
    """Computes the teacher's lesson on a batch.

    Without augmentation the logits are computed once per sample. The features of the modules at `paths` are too large
    to keep: if there are any, the teacher runs in every step. It then runs in the precision of the step.
    """

    logits: Tensor | None

    def __init__(self, model: nn.Module, data: toolkit.Data, paths: Collection[str] = ()) -> None:
        super().__init__()
        self.model, self.task, self.paths = model, data.task, tuple(paths)
        # In the stored order of all samples, so that the logits do not depend on how batches are drawn.
        self.register_buffer("logits", None if data.augmented or paths else _all_logits(model, data))
        if self.logits is None:
            use_fast_layout(model, data)

    @torch.no_grad()
    def forward(self, batch: toolkit.Batch) -> Lesson:
        if self.logits is not None:
            return Lesson(self.logits[batch.index], {})
        with catching(self.model, self.paths) as caught, autocast(batch.index.device):
            logits = logits_of(self.model, self.task, batch)
            return Lesson(logits, arranged(self.model, caught))


def make_teacher(choice: Choice, model: nn.Module, reference: nn.Module, device: torch.device) -> nn.Module:
    """Return the chosen model, frozen and in eval mode: built from its source, or a copy of `model` or `reference`."""
    if isinstance(choice, toolkit.Source):
        teacher = choice.build()
    else:
        teacher = masks.clone(reference if choice == "reference" else model)
    return teacher.to(device).eval().requires_grad_(False)


def require_learnt(choice: Choice) -> None:
    """Raise a `ValueError` for a built-in model without weights."""
    if isinstance(choice, toolkit.Source) and ":" not in choice.source and choice.weights is None:
        raise ValueError(f"'{choice.source}' without weights has nothing to teach; give it weights")


@torch.no_grad()
def logits_of(model: nn.Module, task: toolkit.Task, batch: toolkit.Batch) -> Tensor:
    """(N, …, C) float32."""
    return task.logits(task.forward(model, batch)).float()


def _all_logits(teacher: nn.Module, data: toolkit.Data) -> Tensor | None:
    """(N, …, C) float32 for all training samples, or None if they would take too much memory."""
    one = logits_of(teacher, data.task, data.example(1))
    if one.numel() * 4 * data.samples("train") > MAX_CACHE_BYTES:
        return None
    return torch.cat([logits_of(teacher, data.task, batch) for batch in data.batches("train")])
