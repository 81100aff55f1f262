"""How good a model's answers are, and how they differ from the baseline's on the same samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toolkit.data.splits import Data
from toolkit.errors import ToolkitError
from toolkit.eval_mode import in_eval_mode
from toolkit.metrics.support.metric import Column, Metric, Quantity, Subject, TableContent, column_of
from toolkit.metrics.support.quality_format import PLACE, quality_columns
from toolkit.number_text import percent
from toolkit.scoring import joined, one_per_sample, require_one_per_sample
from toolkit.statistics import Floats, mcnemar_p, mean_interval, paired_change_interval, share_interval
from toolkit.tasks import Batch, Pooled, Task


@dataclass(frozen=True)
class Answers:
    """What a model says about each of N samples, in the order of the split.

    `correct` (N,) bool and `given` (N, …) are None for a task without right answers; `scores` are further metrics by
    name, (N,) float64; `loss` is the mean of the task's loss.
    """

    samples: int
    loss: float
    correct: Tensor | None
    given: Tensor | None
    scores: dict[str, Floats]


@torch.no_grad()
def answers(model: nn.Module, data: Data, split: str = "test") -> Answers:
    """Ask a model about every sample of one split, in eval mode; it is left as it was.

    Raises:
        ValueError: the data has no such split.
        ToolkitError: the split is empty, or the task does not say one thing about each sample.
    """
    if not data.samples(split):
        raise ToolkitError(f"the {split} split has no samples to measure with")
    with in_eval_mode(model):
        parts = [_part(model, data, batch) for batch in data.batches(split)]
    samples = sum(part.samples for part in parts)
    return Answers(
        samples,
        sum(part.loss * part.samples for part in parts) / samples,
        _joined([part.correct for part in parts]),
        _joined([part.given for part in parts]),
        {name: joined([part.scores[name] for part in parts]).numpy() for name in parts[0].scores},
    )


def quality(found: Answers, baseline: Answers | None = None) -> dict[str, Any]:
    """The numbers of a row: every metric with its interval and, given the baseline's answers, its change.

    `accuracy` (a fraction, with its Wilson interval), its paired `accuracy_change` with `accuracy_change_interval`
    and the exact McNemar `accuracy_change_p`; `agreement`, the share of samples with the same answer as the
    baseline's; `loss`; further metrics as `<name>`, `<name>_interval`, `<name>_change`, `<name>_change_interval`.
    """
    row: dict[str, Any] = {"samples": found.samples, "loss": found.loss}
    if found.correct is not None:
        row |= _accuracy(found.correct, None if baseline is None else baseline.correct)
    if baseline is not None and found.given is not None and baseline.given is not None:
        same = (found.given == baseline.given).reshape(found.samples, -1).all(dim=1)
        row["agreement"] = same.double().mean().item()
    for name, values in found.scores.items():
        row |= {name: float(values.mean()), f"{name}_interval": list(mean_interval(values))}
        if baseline is not None:
            change = values - baseline.scores[name]
            row |= {f"{name}_change": float(change.mean()), f"{name}_change_interval": list(mean_interval(change))}
    return row


def _accuracy(correct: Tensor, before: Tensor | None) -> dict[str, Any]:
    samples, right = len(correct), int(correct.sum())
    row: dict[str, Any] = {"accuracy": right / samples, "accuracy_interval": list(share_interval(right, samples))}
    if before is not None:
        gained, lost = int((correct & ~before).sum()), int((~correct & before).sum())
        row["accuracy_change"] = (gained - lost) / samples
        row["accuracy_change_interval"] = list(paired_change_interval(gained, lost, samples))
        row["accuracy_change_p"] = mcnemar_p(gained, lost)
    return row


class _Part(NamedTuple):
    """What a model says about one batch."""

    samples: int
    loss: float
    correct: Tensor | None
    given: Tensor | None
    scores: dict[str, Tensor | Pooled]


def _part(model: nn.Module, data: Data, batch: Batch) -> _Part:
    task, outputs = data.task, data.task.forward(model, batch)
    own = {name: metric(outputs, batch) for name, metric in data.metrics.items()}
    measures = {**task.scores(outputs, batch), **own}
    scores = {name: one_per_sample(value, batch, name) for name, value in measures.items()}
    correct, given = task.correct(outputs, batch), _given(task, outputs, batch)
    if correct is not None and require_one_per_sample(correct, batch, "correct").dtype != torch.bool:
        raise ToolkitError(f"{type(task).__name__}.correct must return bool, not {correct.dtype}")
    return _Part(len(batch), float(task.loss(outputs, batch)), _on_cpu(correct), _on_cpu(given), scores)


def _given(task: Task, outputs: Any, batch: Batch) -> Tensor | None:
    """The answers, all alike where they do not count."""
    given, counted = task.answers(outputs), task.counted(batch)
    return given if given is None or counted is None else given.masked_fill(~counted, 0)


def _on_cpu(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.cpu()


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _measure(subject: Subject) -> dict[str, Any]:
    return quality(subject.answers, subject.baseline_answers)


def _columns(content: TableContent) -> Iterable[Column]:
    yield from quality_columns(content)
    yield column_of(AGREEMENT, place=40)


AGREEMENT = Quantity(
    "agreement",
    partial(percent, digits=1),
    "fraction of samples with the same answer as the baseline",
    "agree",
    dispensable=95,
    minimum=0,
    maximum=1,
    between_runs=0.0,
)
METRIC = Metric(
    _measure,
    (
        Quantity("samples", explanation="number of samples that were asked", minimum=0),
        Quantity("accuracy", percent, "fraction of samples answered rightly", minimum=0, maximum=1, between_runs=0.0),
        AGREEMENT,
    ),
    _columns,
    order=10,
    place=PLACE,
)
