"""Warnings about networks that are hardly trained, or that do not match their data: notes of a row."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from toolkit.data.batches import Split, in_memory
from toolkit.data.shapes import logits_shape
from toolkit.data.splits import Data
from toolkit.number_text import percent
from toolkit.recipe.read import Recipe, Stage
from toolkit.recipe.tables import ModelTable
from toolkit.rows import WARNINGS, Note
from toolkit.seeding import preserve_generators
from toolkit.tasks import Classification, Task
from toolkit.tasks.outputs import unnamed_logits

log = logging.getLogger("toolkit")

MIN_STEPS = 50  # of a training whose loss is judged: ten in each fifth
MIN_FALL = 0.2  # of the loss, in the last fifth of the steps
MIN_FALL_OF_ALL = 0.1  # the same, as a fraction of what the loss has fallen in total: a loss near 0 may halve
MIN_STANDARD_ERRORS = 3.0
MAX_UNREAD_ACCURACY = 0.5  # above it, a dataset is not read once more for its targets


def warn_about(
    stage: Stage, losses: Tensor, recipe: Recipe, model: nn.Module, data: Data, values: Mapping[str, Any]
) -> dict[str, Note]:
    """Log the warnings about a row, and return them as one note by name, or nothing.

    The trainings of a rehearsal are too short to be judged.

    Args:
        stage: stage of the row; the model itself is checked only for the baseline.
        losses: loss of every training step, (steps,) float64.
        recipe: recipe of the run.
        model: model of the row.
        data: data of the run.
        values: measured values of the row.
    """
    messages = [] if recipe.is_rehearsal else training_warnings(losses)
    if not stage.number:
        messages += baseline_warnings(recipe.model, model, data, {} if recipe.is_rehearsal else values)
    for message in messages:
        log.warning("%s: %s", stage.label, message)
    return {WARNINGS: Note(table=tuple({"warning": message} for message in messages))} if messages else {}


def baseline_warnings(table: ModelTable, model: nn.Module, data: Data, values: Mapping[str, Any]) -> list[str]:
    """Return warnings about the baseline.

    Args:
        table: `[model]` table of the recipe.
        model: trained or loaded baseline.
        data: data of the run.
        values: measured values of row 0; empty if the training is not to be judged.
    """
    found = [_untrained(table), _chance(data, values), _outputs(model, data), _choice(model, data)]
    return [message for message in found if message]


def training_warnings(losses: Tensor) -> list[str]:
    """Return a warning if a training loss was still falling steeply at its end.

    Args:
        losses: loss of every step, (steps,) float64.
    """
    if len(losses) < MIN_STEPS:
        return []
    fifth = len(losses) // 5
    first, previous, last = losses[:fifth], losses[-2 * fifth : -fifth], losses[-fifth:]
    fall, before = (previous.mean() - last.mean()).item(), previous.mean().item()
    error = math.sqrt((previous.var() + last.var()).item() / fifth)
    total = (first.mean() - last.mean()).item()
    if before <= 0 or fall < MIN_FALL * before or fall < MIN_FALL_OF_ALL * total or fall < MIN_STANDARD_ERRORS * error:
        return []
    return [
        f"the training loss fell by {100 * fall / before:.0f} % in the last fifth of the steps "
        f"({before:.3g} → {last.mean().item():.3g}); set more `epochs`"
    ]


def _untrained(table: ModelTable) -> str | None:
    if table.weights is not None or table.training is not None:
        return None
    names = random_tensors(table)
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"the baseline is not trained: '{table.source}' draws '{names[0]}'{more} at random; set `weights` or `training`"
    )


def random_tensors(table: ModelTable) -> list[str]:
    """Return the names of the tensors that differ between two models built with different seeds."""
    states = []
    with preserve_generators():
        for seed in (1, 2):
            torch.manual_seed(seed)
            states.append(table.build().state_dict())
    return [
        name
        for name, tensor in states[0].items()
        if not (isinstance(tensor, nn.UninitializedParameter) or torch.equal(tensor, states[1][name]))
    ]


def _chance(data: Data, values: Mapping[str, Any]) -> str | None:
    interval = values.get("accuracy_interval")
    if not isinstance(data.task, Classification) or not interval:
        return None
    split = "test" if data.test is not None else "validation"
    targets = _targets(data.split(split))
    if targets is None and values["accuracy"] < MAX_UNREAD_ACCURACY:
        targets = torch.cat([batch.targets.cpu() for batch in data.batches(split)])
    if targets is None:
        return None
    fraction = targets.unique(return_counts=True)[1].max().item() / len(targets)
    if interval[0] > fraction:
        return None
    return (
        f"the baseline's accuracy, {percent(values['accuracy'])} (at least {percent(interval[0])} at 95 % confidence, "
        f"{len(targets):,} {split} samples), is not significantly above {percent(fraction)}, the share of the most "
        "frequent class; train longer, or check the targets"
    )


def _outputs(model: nn.Module, data: Data) -> str | None:
    targets = _targets(data.train)
    if not isinstance(data.task, Classification) or targets is None:
        return None
    outputs, classes = logits_shape(model, data)[-1], len(targets.unique())
    if outputs <= 2 * classes:
        return None
    return (
        f"the model has {outputs:,} outputs, but the training targets have {classes:,} classes; "
        f"build it with {classes:,}"
    )


def _choice(model: nn.Module, data: Data) -> str | None:
    if type(data.task).logits is not Task.logits:
        return None
    with torch.no_grad():
        unnamed = unnamed_logits(data.task.forward(model.eval(), data.example(2)))
    if unnamed is None:
        return None
    return (
        f"the model has {unnamed[1]} outputs, and {unnamed[0]} is used as the logits; "
        "define a task with a `logits` method to use a different one"
    )


def _targets(split: Split) -> Tensor | None:
    """Return the targets of a split, (N,) int64, if they are in memory."""
    if isinstance(split, Subset):
        targets = _targets(split.dataset)
        return None if targets is None else targets[torch.as_tensor(split.indices)]
    split = in_memory(split)
    stored = split[1] if isinstance(split, tuple) else getattr(split, "targets", None)
    if isinstance(stored, list) and all(isinstance(target, int) for target in stored):
        stored = torch.tensor(stored)
    return stored.cpu() if isinstance(stored, Tensor) and stored.dim() == 1 else None
